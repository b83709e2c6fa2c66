"""The tables and pictures of the docs, drawn from the stored results."""
