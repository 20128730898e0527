"""The tests in `inside` run in an emulated host. Here, outside, they are collected, and their reports shown."""

import contextlib
from pathlib import Path

import pytest

from ghrunner_vm.errors import GhvmError
from tests.conftest import _CACHE
from tests.kvm import emulator, system

_HERE = Path(__file__).parent
_INSIDE = _HERE / "inside"
_TELLER = "tests.kvm.teller"


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """They run only for somebody who names this directory or something in it: they take minutes."""
    named = [(config.invocation_params.dir / word.partition("::")[0]).resolve() for word in config.args]
    return None if any(path.is_relative_to(_HERE) for path in named) else True


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin(_TELLER):
        config.pluginmanager.register(Outside())


class Outside:
    """Lets a host run the tests instead of this process."""

    def __init__(self) -> None:
        self._resources = contextlib.ExitStack()
        self._host: emulator.Host | None = None
        self._gone: str | None = None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Nothing is timed here: the host times its tests, and the wait for it has a deadline of its own."""
        for item in items:
            if _is_inside(item):
                item.add_marker(pytest.mark.timeout(0))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not _is_inside(item):
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item):
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_unconfigure(self) -> None:
        self._resources.close()

    def _reports(self, item: pytest.Item) -> list[pytest.TestReport]:
        if self._gone is not None:
            return [_failed(item, self._gone)]
        try:
            told = self._running(item.session).reports(item.nodeid)
        except (emulator.HostGone, GhvmError) as error:
            self._gone = f"not run: {item.nodeid} was the last test before the host was gone"
            return [_failed(item, _in_full(error))]
        hook = item.config.hook
        return [hook.pytest_report_from_serializable(config=item.config, data=one) for one in told]

    def _running(self, session: pytest.Session) -> emulator.Host:
        if self._host is None:
            tests = [item.nodeid for item in session.items if _is_inside(item)]
            host = emulator.boot(system.build(_CACHE), _CACHE, tests)
            self._host = self._resources.enter_context(host)
        return self._host


def _is_inside(item: pytest.Item) -> bool:
    return item.path.is_relative_to(_INSIDE)


def _failed(item: pytest.Item, text: str) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")


def _in_full(error: Exception) -> str:
    details = getattr(error, "details", None)
    return f"{error}\n{details}" if details else str(error)
