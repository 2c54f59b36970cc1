"""Run both sides of a proof and record what they compute. Never imports `judging`."""
