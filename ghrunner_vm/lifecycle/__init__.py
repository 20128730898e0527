"""The life of a run: a pure machine decides, the driver carries it out."""
