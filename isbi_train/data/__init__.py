"""Labelled stacks: where they come from, what their labels mean, and which sections are for what."""
