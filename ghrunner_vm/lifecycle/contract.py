"""What the kinds of images have in common for a run: how a guest gets its registration, and who tells of its job."""

from collections.abc import Mapping
from typing import Protocol

from ghrunner_vm.github.models import Sight
from ghrunner_vm.lifecycle.events import Launched
from ghrunner_vm.lifecycle.hands import CommonHands
from ghrunner_vm.vm.base import VirtualMachine


class Contract(Protocol):
    """One kind of image."""

    @property
    def credentials(self) -> Mapping[str, int]:
        """Open files that the guest's systemd finds as credentials of these names."""
        ...

    @property
    def launched(self) -> Launched:
        """What the launch means: whether the guest has a registration from the start, and whether it tells of a job."""
        ...

    def hands(self, machine: VirtualMachine) -> CommonHands:
        """What the driver works with, once the machine runs. Called once."""
        ...

    async def attend(self, hands: CommonHands) -> None:
        """Whatever has to happen beside the run, until there is nothing more to do."""
        ...

    def seen(self, sight: Sight) -> None:
        """How GitHub sees the runner, each time it was asked."""
        ...
