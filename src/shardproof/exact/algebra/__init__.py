"""Numbers modulo a prime: the field, oracles, constants, degrees and bounds. No PyTorch modes."""
