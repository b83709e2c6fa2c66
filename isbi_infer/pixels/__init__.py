"""Arithmetic on pixels: grey values in, probabilities out."""
