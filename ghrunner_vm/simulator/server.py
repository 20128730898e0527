"""The embedded GitHub: API, service and admin routes on one loopback port, served from a thread."""

import asyncio
import contextlib
import socket
import threading
from email.utils import formatdate
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.simulator.admin import Admin
from ghrunner_vm.simulator.api import api
from ghrunner_vm.simulator.envelope import RateLimits
from ghrunner_vm.simulator.faults import ADMIN_PREFIX, Faults, FaultyAnswers
from ghrunner_vm.simulator.releases import Releases
from ghrunner_vm.simulator.service import Service
from ghrunner_vm.simulator.state import State
from ghrunner_vm.simulator.trouble import DriftingClock, Troubles

HOST = "127.0.0.1"
SERVICE_PREFIX = "/_service"
RELEASES_PREFIX = "/_releases"
START_SECONDS = 10.0
STOP_SECONDS = 10.0


class Simulator:
    """GitHub for tests and demonstrations: `with Simulator() as sim: … sim.url …`.

    Serves on 127.0.0.1 and the given port, or a free one. `guest_host` is the address under which a guest reaches
    this host (10.0.2.2 is QEMU's user network); it is written into the JIT configs. Times come from `clock`.
    Raises InfrastructureError when the port is taken.
    """

    def __init__(
        self, port: int = 0, org: str = "demo-org", guest_host: str = "10.0.2.2", clock: Clock = SYSTEM
    ) -> None:
        self._drift = DriftingClock(clock)
        clock = self._drift.clock
        self._socket = _bind(port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"
        self.state = State(clock, org, f"http://{guest_host}:{self.port}{SERVICE_PREFIX}")
        self.rates = RateLimits(clock)
        self.faults = Faults()
        self.troubles = Troubles(self.state, self.faults, self._drift)
        self._server = _Server(_config(self._application(clock)))
        self._thread = threading.Thread(target=self._serve, name="simulator", daemon=True)

    def trouble(self, name: str) -> None:
        """Misbehave as `trouble.CATALOGUE` describes it under this name, until `troubles.end()`. Raises UsageError."""
        self.troubles.begin(name)

    @property
    def client_id(self) -> str:
        """The App's client ID."""
        return self.state.identity.client_id

    @property
    def private_key_pem(self) -> str:
        """The App's private key, PKCS#1 PEM."""
        return self.state.identity.private_key_pem

    @property
    def personal_token(self) -> str:
        """A classic personal access token that may manage the runners of every scope."""
        return self.state.identity.personal_token

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._server.ready.wait(START_SECONDS):
            self._stop()
            raise InfrastructureError("The simulator did not start.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self.state.close()
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS)
        self._socket.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def _application(self, clock: Clock) -> Starlette:
        return Starlette(
            routes=[
                Mount(SERVICE_PREFIX, Service(self.state).application()),
                Mount(RELEASES_PREFIX, Releases().application()),
                Mount(ADMIN_PREFIX, Admin(self.state, self.faults, self.troubles).application()),
                Mount("/", api(self.state, self.rates, f"{self.url}{RELEASES_PREFIX}")),
            ],
            middleware=[Middleware(DateHeader, clock), Middleware(FaultyAnswers, self.faults)],
        )


class DateHeader:
    """ASGI middleware: a Date header by the simulator's own clock, which a test may set wrong."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and date the answer."""

        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["date"] = formatdate(self._clock.wall(), usegmt=True)
            await send(message)

        await self._app(scope, receive, dated)


class _Server(uvicorn.Server):
    """A server that says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class _Protocol(H11Protocol):
    """Hands the connection's transport to the application, so that a fault can cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def _bind(port: int) -> socket.socket:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise InfrastructureError(
                f"The simulator cannot listen on {HOST}:{port}.",
                details=str(error),
                resolution="Choose another port with --port, or end what uses this one.",
            ) from error
        listener.listen()
        stack.pop_all()
        return listener
