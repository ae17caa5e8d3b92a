"""Stores: bytes by digest, opened as fd + offset + length."""
