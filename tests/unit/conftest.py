"""What the unit tests share: nothing but how many examples hypothesis tries."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is slow, not wrong, and `make test` says the same twice.
settings.register_profile("unit", deadline=None, max_examples=50, derandomize=True, database=None)
settings.register_profile("long", deadline=None, max_examples=2000, database=None)
settings.load_profile("unit")
