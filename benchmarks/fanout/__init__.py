"""Fan-out measured in a network of namespaces: bytes on each link, and time, beside peers."""
