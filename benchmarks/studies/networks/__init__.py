"""Which network to release: many of them trained with one recipe, scored and timed side by side."""
