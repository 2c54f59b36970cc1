"""The command line: the app with its commands, each in a file of its own, and how an error becomes one line.

Exit codes: 0 equal or proved, 1 diverged, 2 could not run.
"""

from __future__ import annotations

import sys
from typing import cast

import typer

from shardproof.cli.check import check_command
from shardproof.cli.compare import compare_command
from shardproof.cli.output import Exit
from shardproof.cli.prove import prove_command
from shardproof.cli.walkthrough import walkthrough_command
from shardproof.errors import CannotRunError

app = typer.Typer(
    name="shardproof",
    help="Prove that a sharded training step is still the same training step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("walkthrough")(walkthrough_command)
app.command("compare")(compare_command)
app.command("prove")(prove_command)
app.command("check")(check_command)


# The error that typer raises for a wrong option. Its class is click's UsageError, from the copy of click inside typer.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)


def main() -> None:
    """Run the command line; bad input of any kind becomes one line on stderr and exit code 2."""
    try:
        sys.exit(app(standalone_mode=False))
    except (CannotRunError, _UsageError) as error:
        message = error.format_message() if isinstance(error, _UsageError) else str(error)
        if message:
            print(f"shardproof: error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(Exit.COULD_NOT_RUN)
