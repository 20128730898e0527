"""`ghvm completion`: the shell completes commands and options."""

import click
from click.shell_completion import get_completion_class

from ghrunner_vm.console import Console
from ghrunner_vm.errors import UsageError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete ghvm's commands and options.

    \b
    Examples:
      ghvm completion bash > ~/.local/share/bash-completion/completions/ghvm
      ghvm completion fish > ~/.config/fish/completions/ghvm.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(f"this version of click knows no {shell}")
    Console().result(kind(context.find_root().command, {}, "ghvm", "_GHVM_COMPLETE").source().rstrip("\n"))
