"""The model's folder: what was loaded, what is written, and a trial of it before training."""
