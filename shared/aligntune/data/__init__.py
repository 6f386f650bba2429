"""Rows: sources, formats, previews."""
