"""`shardproof check CERTIFICATE`: replay a proof from its certificate and say whether it still holds."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from shardproof.cli.output import Exit, Format, check_writable, write_result
from shardproof.cli.tracebacks import traceback_shown

if TYPE_CHECKING:
    from shardproof.proving.findings import Proof
    from shardproof.report.certificate import Certificate


SCHEMA_VERSION = 1


def check_command(
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="A file that `shardproof prove --format json` wrote.")
    ],
    *,
    spawn: Annotated[bool, typer.Option("--spawn", help="A process for each rank, on this machine.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds without progress after which ranks are given up.")] = 60.0,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="If your code raises an error, show where in full.")
    ] = False,
    output_format: Annotated[Format, typer.Option("--format", help="How the answer is written.")] = Format.text,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
) -> int:
    """Prove again what a certificate claims.

    Exit code 0: it holds. 1: it does not, or it says that its step is not proved. 2: could not run.

    Runs the files that the certificate names, which must lie in the current folder.
    """
    from shardproof.cli.progress import progress_shown
    from shardproof.proving.prove import prove
    from shardproof.report.certificate import compare_with, read_certificate
    from shardproof.tensorfiles import printable

    if output is not None:
        check_writable(output)
    read = read_certificate(certificate)
    notes = _list_changes(read)

    def replay(one: Certificate) -> tuple[Proof, list[str]]:
        load = one.specification.load
        target = load()
        proof = prove(
            target.step,
            parallelize=target.parallelize,
            candidate=target.candidate,
            mesh=one.mesh,
            data_axes=one.data_axes,
            trials=len(one.primes),
            allow=one.allow,
            seed=one.specification.seed,
            spawn=spawn,
            timeout=timeout,
            reload=load,
            tell=tell,
        )
        return proof, compare_with(one, proof)

    with traceback_shown(show_traceback), progress_shown() as tell:
        proof, differences = replay(read)
        if read.mended is not None:
            differences += [f"with the suggested entries, {told}" for told in replay(read.mended)[1]]
    if output_format is Format.json:
        content = {
            "schema_version": SCHEMA_VERSION,
            "holds": not differences,
            "ok": proof.ok,
            "compared": len(read.claims),
            "differences": differences,
            "notes": notes,
        }
        text = json.dumps(content, indent=2)
    else:
        answer = (
            "DOES NOT HOLD" if differences else "HOLDS" if proof.ok else "HOLDS, and is of a step that is NOT PROVED"
        )
        text = "\n".join(map(printable, [f"{answer}: {len(read.claims)} tensors", *differences, *notes]))
    write_result(text, output)
    return Exit.of(proof.ok and not differences)


def _list_changes(read: Certificate) -> list[str]:
    """List the files and versions that have changed since the proof, which may explain a difference."""
    from shardproof.report.json import installed_versions

    now = read.specification.digests()
    notes = [f"{name} has changed since" for name, digest in now.items() if read.digests.get(name) != digest]
    versions = installed_versions()
    return notes + [
        f"{name} was {then}, is {versions.get(name)}"
        for name, then in read.versions.items()
        if versions.get(name) != then
    ]
