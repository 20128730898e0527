"""`ghvm run`: one job in one virtual machine."""

from pathlib import Path

import click

from ghrunner_vm.commands.options import PATH, github_options, given, trusted_keys_option
from ghrunner_vm.github.signing import signer


@click.command()
@click.argument("spec_file", metavar="SPEC", type=PATH)
@github_options
@click.option("--runner-group-id", metavar="N", type=int, help="Runner group.  [default: 1]")
@click.option("--images-server", metavar="URL", help="Image server.  [default: the Rust project's]")
@click.option("--images-cache-dir", metavar="DIR", type=PATH, help="Where images are kept.")
@click.option(
    "--image-poll-seconds", metavar="N", type=int, help="How often to look for a newer image; 0: never.  [default: 300]"
)
@trusted_keys_option
@click.option(
    "--runner-max-age-days",
    metavar="N",
    type=int,
    help="Refuse an image with an older runner; 0: never.  [default: 30]",
)
@click.option("--no-cache", is_flag=True, default=None, help="Keep the image in a temporary directory.")
@click.option(
    "--require-latest", is_flag=True, default=None, help="Refuse a cached image when the latest one is not to be had."
)
@click.option("--no-shutdown-after-job", is_flag=True, default=None, help="Let the machine live on after its job.")
@click.option(
    "--ssh-port", metavar="PORT", type=int, help="Port on this host's loopback that leads to the guest's SSH."
)
@click.option("--accel", type=click.Choice(["auto", "kvm", "tcg"]), help="Accelerator.  [default: auto]")
@click.option("--allow-emulation", is_flag=True, default=None, help="Allow an emulated guest; for trusted code only.")
@click.option("--allow-host-loopback", is_flag=True, default=None, help="Let the guest reach this host's 127.0.0.1.")
@click.option(
    "--network",
    type=click.Choice(["namespace", "user", "none"]),
    help="The guest's network.  [default: namespace as root, else user]",
)
@click.option("--uplink", metavar="DEV", help="The interface by which guests go out.  [default: the route's]")
@click.option("--network-pool", metavar="NET", help="Addresses for the way out.  [default: 198.18.0.0/16]")
@click.option(
    "--resolvers", metavar="ADDRESS,…", help="Name servers that answer the guest's questions.  [default: the host's]"
)
@click.option("--egress", type=click.Choice(["internet", "listed"]), help="What it may reach.  [default: internet]")
@click.option(
    *("--egress-allow", "egress_allow"),
    metavar="NET[:PORT]",
    multiple=True,
    callback=given,
    help="A private network, a port of 127.0.0.1 or a name that it may reach as well; may be repeated.",
)
@click.option(
    *("--egress-deny", "egress_deny"),
    metavar="NET[:PORT]",
    multiple=True,
    callback=given,
    help="What it may not reach; may be repeated.",
)
@click.option(
    "--egress-learn", metavar="FILE", type=PATH, help="Add what the guest reaches to the list in FILE, to allow it."
)
@click.option("--name", metavar="PREFIX", help="Prefix of the runner's name.  [default: the spec's label]")
@click.option("--state-dir", metavar="DIR", type=PATH, help="Where runs are recorded.")
@click.option(
    "--poll-seconds", metavar="N", type=int, help="How often GitHub is asked about the runner.  [default: 60]"
)
@click.option("--drain-seconds", metavar="N", type=int, help="Longest wait for GitHub while draining.  [default: 600]")
@click.option(
    "--back-off", is_flag=True, default=None, help="Wait before the start if the last ones failed; for services."
)
@click.option("--metrics-textfile", metavar="PATH", type=PATH, help="Write metrics for Prometheus' node exporter.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Narration as text or as JSON lines.")
def run(spec_file: Path, **flags: object) -> None:
    """Run one job in one virtual machine, as the file SPEC describes it.

    SIGTERM and SIGHUP drain: a job that runs is finished, an idle runner is deregistered first. Ctrl-C ends the
    machine at once; a second Ctrl-C does not even wait for GitHub.

    Each option can come from the environment (GHVM_GITHUB_ORG) or from config.toml (github-org) as well. A token
    instead of a GitHub App comes from GHVM_GITHUB_TOKEN.

    \b
    Example:
      ghvm run instances/ubuntu-24.04-x86_64.json --github-org my-org \\
          --github-client-id Iv1.0123 --github-private-key app.pem
    """
    with signer() as ready:
        # The libraries of the signer take as long to load as ours, so they load side by side.
        from ghrunner_vm.commands.supervise import supervise

        supervise(spec_file, flags, ready)
