"""`python -m shardproof`, which is what torchrun starts."""

from shardproof.cli.app import main

main()
