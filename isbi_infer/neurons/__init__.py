"""Segments of probabilities, and their links through the stack; for the ``labels`` extra."""
