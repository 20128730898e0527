"""GitHub's REST API as one ASGI application."""

from starlette.applications import Starlette
from starlette.middleware import Middleware

from ghrunner_vm.simulator.app_routes import AppRoutes
from ghrunner_vm.simulator.envelope import Envelope, RateLimits
from ghrunner_vm.simulator.problems import HANDLERS
from ghrunner_vm.simulator.runner_routes import RunnerRoutes
from ghrunner_vm.simulator.state import State


def api(state: State, rates: RateLimits, releases_url: str) -> Starlette:
    """The routes of `app_routes` and `runner_routes`; any other path answers 404 in GitHub's form.

    The runner's downloads are said to lie below `releases_url`.
    """
    return Starlette(
        routes=[*AppRoutes(state.identity, rates).routes(), *RunnerRoutes(state, releases_url).routes()],
        middleware=[Middleware(Envelope, state.identity, rates, state.clock)],
        exception_handlers=HANDLERS,
    )
