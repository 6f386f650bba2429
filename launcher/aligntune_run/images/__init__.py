"""Images: what they are made of, how they are built or pulled, and which ones are here."""
