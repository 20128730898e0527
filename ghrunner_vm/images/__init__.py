"""Images: what a virtual machine boots, how it arrives and how it is kept."""
