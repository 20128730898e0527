"""`ghvm spec schema`: what a spec may hold, for editors."""

import click

from ghrunner_vm import spec
from ghrunner_vm.console import Console


@click.command()
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of specs. Editors complete and check with it.

    \b
    Example:
      ghvm spec schema > ghvm-spec.schema.json
    """
    Console().result_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **spec.schema()})
