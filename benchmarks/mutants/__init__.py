"""Real bugs of sharded training, each planted in a correct sharding: does shardproof see them, and who else does?"""
