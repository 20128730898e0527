"""What is tested in the emulated host, as root, on real KVM, with ghvm installed from its wheel."""

SECONDS = 200.0
"""Long enough for anything here that takes seconds elsewhere: each instruction is emulated, some of them twice."""
