"""What computes batches: one file a runtime, each the only one that imports its runtime."""
