"""The host program: looks at the machine and the request, chooses an image, and trains inside it.

It imports neither torch nor a trainer, so it starts fast.
"""
