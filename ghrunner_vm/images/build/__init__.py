"""Images from an ordinary Dockerfile: the container's files become a disk, a kernel and a small initrd."""
