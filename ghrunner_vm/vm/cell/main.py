"""The program itself. Its words are `parent=PID`, `see=PLACE`, `device=FILE`, `network=own` and limits such as
`NOFILE=4096`; what follows `--` is what it becomes. If there can be no walls, its last line begins with COMPLAINT.
"""

import errno
import os
import resource
import sys

from ghrunner_vm.vm.cell import kernel, landlock, view

TYPE_CHECKING = False  # neither typing nor collections is loaded for this
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMPLAINT = "ghvm cannot wall in the VMM: "
_FAILED = 125
_KNOWS_NETWORKS = 4  # Landlock of Linux 6.7: TCP; see landlock(7)
_SIGKILL, _SIGPIPE, _SIGXFSZ = 9, 13, 25


def main() -> None:
    """Become what follows `--` in sys.argv, behind walls."""
    become_behind(_wall_in)


def become_behind(make: "Callable[[list[list[str]]], None]", first: "Sequence[str]" = ()) -> None:
    """Become what follows `--` in sys.argv, or what `first` says with it, once `make` has made walls of the words."""
    split = sys.argv.index("--")
    words, command = [word.split("=", 1) for word in sys.argv[1:split]], sys.argv[split + 1 :]
    # Until the program sets its own: setpriv does once it has changed the user, which clears this one.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, _SIGKILL)
    if ["parent", str(os.getppid())] not in words:
        _end("the run has ended already")  # before it could be asked for, so that no signal comes any more
    try:
        _limit(words)
        make(words)
    except OSError as error:
        _end(f"{COMPLAINT}{_told(error)}")
    for number in (_SIGPIPE, _SIGXFSZ):
        kernel.default_signal(number)  # Python ignores them, and what is ignored stays so
    try:
        kernel.become([*first, *command])
    except OSError as error:
        _end(f"{(*first, *command)[0]}: {_told(error)}")


def _told(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


def _end(why: str) -> None:
    sys.stderr.write(f"{why}\n")
    sys.exit(_FAILED)


def _limit(words: list[list[str]]) -> None:
    for name, value in words:
        if name.isupper():
            number = getattr(resource, f"RLIMIT_{name}")
            _, hard = resource.getrlimit(number)
            wanted = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
            resource.setrlimit(number, (wanted, wanted))


def _wall_in(words: list[list[str]]) -> None:
    seen, devices = ([value for name, value in words if name == kind] for kind in ("see", "device"))
    own_network = ["network", "own"] in words
    refusal = _refusal(seen, devices, own_network)
    if refusal is None:
        view.enter(seen, devices, own_network=own_network)
        if os.geteuid() != 0:  # root's are for setpriv, which needs some of them first
            kernel.drop_capabilities()
        return
    try:
        abi = landlock.version()
    except OSError as error:
        raise OSError(error.errno, f"namespaces: {refusal}; Landlock: {error.strerror}") from error
    if own_network and abi < _KNOWS_NETWORKS:
        raise OSError(errno.ENOSYS, f"namespaces: {refusal}; Landlock {abi} cannot keep it from the network")
    sys.stderr.write(f"no namespaces of its own ({refusal}), Landlock {abi} instead\n")
    landlock.restrict([*view.SYSTEM, *seen], devices, own_network=own_network)


def _refusal(seen: list[str], devices: list[str], own_network: bool) -> str | None:
    """Why this host forbids it, found out by a child that tries: there is no way back from the middle."""
    child = os.fork()
    if child == 0:
        try:
            view.enter(seen, devices, own_network=own_network)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or _FAILED)
        finally:
            os._exit(_FAILED)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        return f"signal {-code}, from a filter of system calls"
    return os.strerror(code) if code else None
