"""Comparisons that train or score networks: hours rather than minutes, on labelled sections."""
