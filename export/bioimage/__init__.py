"""Packages for bioimage.io."""
