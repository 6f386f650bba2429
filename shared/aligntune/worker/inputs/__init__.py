"""What a run reads: fetched, found, loaded and tokenized."""
