"""Pictures: curves, augmented pairs, contact sheets."""
