"""Time that passes only when somebody waits or a test says so."""

from ghrunner_vm.clock import Clock


class VirtualTime:
    """`clock` is handed out; `now` may be moved; `slept` is what was waited for, in seconds."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []
        self.clock = Clock(wall=lambda: self.now, monotonic=lambda: self.now, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
