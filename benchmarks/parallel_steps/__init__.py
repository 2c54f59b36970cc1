"""The steps that bench_parallel.py times, as one rank runs them."""
