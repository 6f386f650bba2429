"""What doctor checks: small functions from what was seen to verdicts."""
