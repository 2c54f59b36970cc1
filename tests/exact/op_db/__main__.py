"""`python -m tests.exact.op_db` writes docs/exact-ops.md."""

import sys
import warnings
from pathlib import Path

import torch
from tests.exact.op_db.table import count, every_verdict, render, say

warnings.simplefilter("ignore")
torch.set_num_threads(1)
verdicts, _ = every_verdict()
say(verdicts)
Path(__file__).parents[3].joinpath("docs/exact-ops.md").write_text(render(verdicts), encoding="ascii", errors="replace")
sys.exit(1 if count(verdicts)["wrong"] else 0)
