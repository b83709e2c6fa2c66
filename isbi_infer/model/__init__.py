"""A model file: its contract, the devices it may run on, and how it is opened."""
