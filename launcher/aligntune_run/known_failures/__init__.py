"""Known failures of the stacks, one table a kind."""
