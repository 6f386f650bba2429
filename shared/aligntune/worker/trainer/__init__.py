"""The trainers' arguments, and our additions to every trainer."""
