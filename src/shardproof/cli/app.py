"""The command line: the app with its commands, each in a file of its own, and how an error becomes one line.

Exit codes: 0 equal or proved, 1 diverged, 2 could not run.
"""

from __future__ import annotations

import sys
from typing import Annotated, cast

import typer

from shardproof.cli.census import census_command
from shardproof.cli.check import check_command
from shardproof.cli.compare import compare_command
from shardproof.cli.output import Exit
from shardproof.cli.prove import EXAMPLES, prove_command
from shardproof.cli.walkthrough import walkthrough_command
from shardproof.errors import CannotRunError
from shardproof.version import __version__

app = typer.Typer(
    name="shardproof",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"shardproof {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Prove that a sharded training step is still the same training step."""


app.command("walkthrough")(walkthrough_command)
app.command("compare")(compare_command)
app.command("prove", epilog=EXAMPLES)(prove_command)
app.command("check")(check_command)
app.command("census")(census_command)


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
