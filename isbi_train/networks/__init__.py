"""The U-Net, and its weights in files."""
