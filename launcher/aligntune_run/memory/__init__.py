"""Estimates of training memory. Pure: from the request and the model's facts."""
