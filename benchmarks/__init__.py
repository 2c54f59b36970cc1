"""What is claimed of speed and memory, measured: `python -m benchmarks`. See README.md here."""
