"""The HTTP face of the daemon: one module for each group of endpoints (docs/protocol.md)."""
