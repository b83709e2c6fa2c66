"""From a checkpoint to deployable files that are proved equal to it."""
