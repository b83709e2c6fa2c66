"""A training run: its settings, what it draws, its loop, and what it keeps."""
