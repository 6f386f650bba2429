"""The worker: inside an image (or its twin venv), reads a spec, trains, leaves a run directory.

Importing this package is cheap; torch comes in when a run starts. It knows no backend by name: the
module ``aligntune_backend``, which each image puts on the path, is the backend.
"""
