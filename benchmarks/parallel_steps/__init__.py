"""The training steps that bench_parallel.py times, on one rank."""
