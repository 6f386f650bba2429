"""The Python API: keywords, trainer, results, and the runners that carry requests out."""
