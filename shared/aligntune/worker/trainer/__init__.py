"""The trainers' arguments, and what is added to every trainer."""
