"""Tests. A regular package, as other distributions install a ``tests`` that would win otherwise."""
