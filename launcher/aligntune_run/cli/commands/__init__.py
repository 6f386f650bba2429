"""The commands, one idea a file. Heavy imports are in their functions."""
