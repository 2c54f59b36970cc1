"""exact/rules."""
