"""The engine Firecracker, always in its jailer. Nothing here is for a host without root and KVM."""
