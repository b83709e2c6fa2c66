"""A model file: what it says about itself, the devices it may run on, and how it is opened."""
