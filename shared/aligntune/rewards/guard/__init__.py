"""What keeps a reward that goes wrong from harming the run."""
