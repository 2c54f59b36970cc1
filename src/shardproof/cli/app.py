"""The command line: a thin layer. Each command lives in its own file; here are the app, exit codes and errors.

Exit codes: 0 equal or proved, 1 diverged, 2 could not run.
"""

from __future__ import annotations

import sys

import typer

from shardproof.cli.compare import compare_command
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


def main() -> None:
    """Run the command line; a `CannotRunError` becomes one line on stderr and exit code 2."""
    try:
        app()
    except CannotRunError as error:
        print(f"shardproof: error: {error}", file=sys.stderr)
        sys.exit(2)
