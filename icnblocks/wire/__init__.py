"""The wire: requests and frames of the protocol, sans-IO. Pure: bytes in, values out."""
