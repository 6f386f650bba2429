"""What a run reads: fetched, found and loaded."""
