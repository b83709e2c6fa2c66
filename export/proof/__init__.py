"""The evidence that a file computes what its checkpoint computes, and the gates that it must pass."""
