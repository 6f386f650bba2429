"""The Python API, the same on a host without torch and inside an image."""
