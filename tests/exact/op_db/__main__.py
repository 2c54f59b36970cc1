"""Judges every op of PyTorch's op database, and writes the table of them: docs/exact-ops.md."""

import argparse
import sys
import warnings
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "exact-ops.md"


def main():
    """Exit code 0 if no op is wrong, 1 if one is."""
    parser = argparse.ArgumentParser(prog="python -m tests.exact.op_db", description=__doc__)
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE", help="where the table goes [%(default)s]")
    arguments = parser.parse_args()

    import torch  # after the help, which needs none of it
    from tests.exact.op_db.table import count, every_verdict, render, say

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    verdicts, _ = every_verdict()
    say(verdicts)
    arguments.output.write_text(render(verdicts), encoding="ascii", errors="replace")
    return int(count(verdicts)["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
