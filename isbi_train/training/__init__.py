"""A training run: what it draws, its loop, and what it keeps."""
