"""`python -m ghrunner_vm`."""

from ghrunner_vm.cli import main

main()
