"""One bug a file; see `bug.py` for what a file needs."""
