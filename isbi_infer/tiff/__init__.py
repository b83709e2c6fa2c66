"""How TIFF files are laid out and described; `isbi_infer.stacks` is the door to it."""
