"""Runs in containers of Docker or podman."""
