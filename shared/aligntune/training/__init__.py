"""The name by which images, specs and compose files start the worker."""
