"""A plugin of the pytest in the emulated host: tells the one outside of each test."""

import json
from pathlib import Path

import pytest

PORT = "ghvm.reports"
"""The name of the virtio-serial port, which takes one JSON document a line."""


class Teller:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        # Buffered: the port takes a long line in several pieces.
        self._port = (Path("/dev/virtio-ports") / PORT).open("wb")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._port.write(json.dumps(told).encode() + b"\n")
        self._port.flush()

    def pytest_unconfigure(self) -> None:
        self._port.close()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Teller(config))
