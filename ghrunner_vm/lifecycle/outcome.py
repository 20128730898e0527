"""How a run can end, and what it exits with."""

from enum import Enum

from ghrunner_vm.errors import ExitCode


class Outcome(Enum):
    """The end of a run: a name for scripts, an exit code, and words for people."""

    JOB_DONE = ("job-done", ExitCode.OK, "the job finished")
    DRAINED = ("drained", ExitCode.OK, "drained: no job was lost")
    DRAINED_UNCONFIRMED = (
        "drained-unconfirmed",
        ExitCode.OK,
        "drained, though GitHub could not be asked: neither it nor the guest had told of a job",
    )
    IDLE_TIMEOUT = ("idle-timeout", ExitCode.OK, "no job came within the idle timeout")
    NO_JOB = ("no-job", ExitCode.OK, "the runner's service ended the registration before a job came")
    VANISHED = ("vanished", ExitCode.OK, "GitHub no longer knew the runner, and the guest had told of no job")
    JOB_TIMEOUT = (
        "job-timeout",
        ExitCode.JOB_TIMEOUT,
        "the job was ended at its timeout",
        'Jobs that need longer want a larger "timeout-seconds" in the spec.',
    )
    INTERRUPTED = ("interrupted", ExitCode.INTERRUPTED, "interrupted")
    BOOT_TIMEOUT = (
        "boot-timeout",
        ExitCode.NOT_UP,
        "the guest did not report within the boot timeout",
        "Look at its console: the image's agent must say that it is ready. On a slow host the spec wants a larger"
        ' "boot-timeout-seconds".',
    )
    BOOT_FAILED = (
        "boot-failed",
        ExitCode.NOT_UP,
        "the virtual machine ended before it could take a job",
        "Look at its console. A guest that restarts while it boots ends its machine, so the image must not need that.",
    )
    START_TIMEOUT = (
        "start-timeout",
        ExitCode.NOT_UP,
        "the guest took its registration but started no listener",
        "Check the image: its agent must start the runner's listener and say so (docs/guest-contract.md).",
    )
    REFUSED = (
        "refused",
        ExitCode.NOT_UP,
        "the guest's agent refused the registration",
        "Try again; if it refuses once more, build the image anew: its agent or its runner is damaged.",
    )
    OUTDATED = (
        "runner-outdated",
        ExitCode.PERMANENT,
        "GitHub refuses this version of the runner",
        "Build the image with the newest runner; GitHub takes none that is more than about 30 days behind.",
    )
    MINT_REFUSED = ("registration-refused", ExitCode.PERMANENT, "GitHub refused to register a runner")
    MINT_FAILED = ("registration-failed", ExitCode.INFRASTRUCTURE, "no registration could be had from GitHub")
    DISK_FULL = (
        "disk-full",
        ExitCode.INFRASTRUCTURE,
        "the host's disk is full",
        'Make room where runs are kept (--state-dir); each machine may fill as much as its "root-disk" says.',
    )
    VMM_CRASHED = (
        "vmm-crashed",
        ExitCode.INFRASTRUCTURE,
        "the virtual machine monitor ended unexpectedly",
        "Look for its end in the host's log: a kernel out of memory kills it first.",
    )
    VMM_SILENT = (
        "vmm-silent",
        ExitCode.INFRASTRUCTURE,
        "the virtual machine monitor stopped answering",
        "Look for what holds QEMU: a disk or a network file system that does not answer, or a debugger.",
    )
    PANICKED = (
        "kernel-panic",
        ExitCode.ERROR,
        "the guest's kernel panicked",
        'Look at its console. A guest that was out of memory wants a larger "ram" in the spec.',
    )
    LISTENER_FAILED = (
        "listener-failed",
        ExitCode.ERROR,
        "the runner's listener failed",
        "Its own words are above; the image may lack what it needs, or an older one may be the cause.",
    )
    JOB_LOST = (
        "job-lost",
        ExitCode.ERROR,
        "the machine or its listener ended in the middle of the job",
        "GitHub fails the job within about 15 minutes: start it again there, after a look at what it did last.",
    )
    JOB_UNCONFIRMED = (
        "job-unconfirmed",
        ExitCode.INFRASTRUCTURE,
        "the guest powered off, and GitHub could not be asked whether it had a job and finished it",
        "Look there what became of the job. The runner may still be registered: `ghvm gc` asks again.",
    )
    GUEST_LEFT = (
        "guest-left",
        ExitCode.ERROR,
        "the guest powered off without a job",
        "Look at its console: the image must stay on until its runner has had a job.",
    )

    def __init__(self, label: str, exit_code: ExitCode, words: str, advice: str | None = None) -> None:
        self.label = label
        self.exit_code = exit_code
        self.words = words
        self.advice = advice
        """What to do about it, where there is something to do."""
