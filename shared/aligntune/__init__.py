"""What the host and the images share: the run's specification, its contract and its record.

Nothing here imports torch; ``aligntune.worker`` does, and only inside an image or its twin venv.
"""

__version__ = "0.1.0"
DISTRIBUTION = "aligntune-run"
