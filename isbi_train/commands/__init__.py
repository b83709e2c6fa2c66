"""The commands of ``isbi-train``."""
