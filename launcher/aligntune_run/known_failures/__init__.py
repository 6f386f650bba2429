"""Known failures of the stacks, one table per kind."""
