"""A training step as plain arithmetic, on one device and on N. No autograd here, except in `reference.py`."""
