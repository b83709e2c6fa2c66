"""Pictures: scores, curves, augmented pairs and contact sheets."""
