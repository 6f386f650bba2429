"""What a run leaves: its directory, its record, its events."""
