"""Makes docs/gallery: pages of proofs and of the walkthrough, with a picture of each. Needs chromium and transformers.

Also says how long a page of 10,000 tensors takes to open, and how large it is: under 2 seconds and 20 MB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.mutants.bug import load_bugs
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Finding, Numbers, Proof, Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Key, Phase
from shardproof.report.json import render_json
from shardproof.report.page.render import render_proof_page

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parents[1] / "docs" / "gallery"
QWEN3 = ("prove", "hf:qwen3", "--devices", "2", "--steps", "1")
PAGES: dict[str, Sequence[str]] = {
    "qwen3": QWEN3,
    "qwen3-without-q-norm": (*QWEN3, "--plan-drop", "*q_norm"),
    "walkthrough": ("walkthrough",),
}
# Planted bugs of `benchmarks/mutants` by the names of their pages.
BUGS = {"pipeline-tied-ends": "M156"}
# Name of the picture, its page, light or dark, and the element at its top.
PICTURES = (
    ("qwen3", "qwen3", "light", "body"),
    ("qwen3-without-q-norm", "qwen3-without-q-norm", "light", "body"),
    ("first-divergence", "qwen3-without-q-norm", "dark", "#step"),
    ("heat-maps", "qwen3-without-q-norm", "light", ".tensor:has(.maps)"),
    ("pipeline-tied-ends", "pipeline-tied-ends", "light", "body"),
    ("walkthrough", "walkthrough", "light", "#s5"),
    ("walkthrough-pipeline", "walkthrough", "light", "#s7"),
)
TENSORS = 10_000


def main() -> int:
    """Exit code 1 where a command fails to run."""
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, arguments in PAGES.items():
        page = FOLDER / f"{name}.html"
        run = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "shardproof", *arguments, "--html", str(page)],
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if run.returncode > 1:
            return 1
        print(f"{page.name}: {page.stat().st_size / 1e3:.0f} kB")
    for name, bug in BUGS.items():
        (FOLDER / f"{name}.html").write_text(_page_of_bug(bug))
    with sync_playwright() as started:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=root)
        for picture, page_name, scheme, top in PICTURES:
            _take_picture(browser, picture, page_name, scheme, top)
        _measure(browser)
        browser.close()
    return 0


def _page_of_bug(identifier: str) -> str:
    (bug,) = (one for one in load_bugs() if one.id == identifier)
    wrong = bug.plant(True)
    proof = prove(wrong.make_step(), candidate=wrong.candidate, mesh=wrong.mesh, trials=1, evidence=())
    return render_proof_page(proof, certificate=render_json(proof))


def _take_picture(browser: Any, picture: str, page_name: str, scheme: str, top: str) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 860}, color_scheme=scheme)
    page.goto((FOLDER / f"{page_name}.html").as_uri())
    page.locator(top).first.evaluate("one => one.scrollIntoView()")
    page.wait_for_timeout(300)
    page.screenshot(path=FOLDER / f"{picture}.png")
    page.close()


def _measure(browser: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.html"
        many = make_proof(TENSORS)
        path.write_text(render_proof_page(many, certificate=render_json(many)))
        page = browser.new_page()
        start = time.perf_counter()
        page.goto(path.as_uri())
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")
        seconds = time.perf_counter() - start
        print(f"{TENSORS} tensors: {path.stat().st_size / 1e6:.1f} MB, opened in {seconds:.2f} s")


def make_proof(tensors: int) -> Proof:
    """A made-up proof in which every third tensor is wrong."""
    numbers = Numbers(exact=False, approximate=True, maxdiff=1e-7, error=2e-7, noise=1e-7, scale=1.0)
    cause = Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT)
    right = Finding(key=Key(0, Phase.GRADIENT, ""), verdict=Verdict.PROVED, elements=64, probed=64, numbers=numbers)
    wrong = replace(right, verdict=Verdict.WRONG, cause=cause, ranks=(0, 1), differing=64)
    findings = tuple(
        replace(wrong if number % 3 == 0 else right, key=Key(0, Phase.GRADIENT, f"model.layers.{number}.mlp.up.weight"))
        for number in range(tensors)
    )
    return Proof(
        findings=(replace(findings[0], root=True), *findings[1:]),
        mesh={"tp": 2},
        data_axes=(),
        trials=3,
        primes=(2097143, 2097133, 2097131),
        seeds=(0, 1, 2),
        probes="made up",
    )


if __name__ == "__main__":
    sys.exit(main())
