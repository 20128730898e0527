"""What a host needs to run virtual machines for jobs, checked one by one."""
