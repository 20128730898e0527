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
    JOB_TIMEOUT = ("job-timeout", ExitCode.JOB_TIMEOUT, "the job was ended at its timeout")
    INTERRUPTED = ("interrupted", ExitCode.INTERRUPTED, "interrupted")
    BOOT_TIMEOUT = ("boot-timeout", ExitCode.NOT_UP, "the guest did not report within the boot timeout")
    BOOT_FAILED = ("boot-failed", ExitCode.NOT_UP, "the virtual machine ended before it could take a job")
    START_TIMEOUT = ("start-timeout", ExitCode.NOT_UP, "the guest took its registration but started no listener")
    REFUSED = ("refused", ExitCode.NOT_UP, "the guest's agent refused the registration")
    OUTDATED = ("runner-outdated", ExitCode.PERMANENT, "GitHub refuses this version of the runner")
    MINT_REFUSED = ("registration-refused", ExitCode.PERMANENT, "GitHub refused to register a runner")
    MINT_FAILED = ("registration-failed", ExitCode.INFRASTRUCTURE, "no registration could be had from GitHub")
    DISK_FULL = ("disk-full", ExitCode.INFRASTRUCTURE, "the host's disk is full")
    VMM_CRASHED = ("vmm-crashed", ExitCode.INFRASTRUCTURE, "the virtual machine monitor ended unexpectedly")
    PANICKED = ("kernel-panic", ExitCode.ERROR, "the guest's kernel panicked")
    LISTENER_FAILED = ("listener-failed", ExitCode.ERROR, "the runner's listener failed")
    JOB_LOST = ("job-lost", ExitCode.ERROR, "the virtual machine ended in the middle of its job")
    GUEST_LEFT = ("guest-left", ExitCode.ERROR, "the guest powered off without a job")

    def __init__(self, label: str, exit_code: ExitCode, words: str) -> None:
        self.label = label
        self.exit_code = exit_code
        self.words = words
