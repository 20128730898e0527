"""ghvm: GitHub Actions self-hosted runners, one fresh virtual machine for each job."""

__version__ = "0.1.0"
