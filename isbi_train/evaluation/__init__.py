"""Predictions, also those of a model that is run, against labels: from paths to every score."""
