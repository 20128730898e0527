"""The wall around a guest: a network of its own, what is served to it there, and what may pass."""
