"""The host program: looks at the machine and the request, chooses an image, trains inside it.

Imports neither torch nor a trainer, and starts in a blink.
"""
