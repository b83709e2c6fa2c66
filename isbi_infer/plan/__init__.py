"""What a run will do, decided before any pixel is computed: arithmetic on shapes, memory and wishes."""
