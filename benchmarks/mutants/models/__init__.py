"""Models on one device, and ways of sharding them, that many configurations and bugs share."""
