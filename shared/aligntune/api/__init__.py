"""The Python API: keywords, trainer, results and runners."""
