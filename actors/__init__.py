"""The actors that answer on every node, loaded by name."""
