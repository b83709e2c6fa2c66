"""How TIFF files are laid out and described; `isbi_infer.volumes` is the door to it."""
