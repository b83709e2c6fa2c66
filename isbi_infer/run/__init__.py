"""Sections in, results out: the threads that carry out a plan."""
