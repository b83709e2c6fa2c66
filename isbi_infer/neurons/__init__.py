"""Cells out of probabilities: segments within each section, joined through the stack. Needs the extra ``labels``."""
