"""A tiny real image: the distribution's kernel, busybox, the agent and the listener's stand-in."""
