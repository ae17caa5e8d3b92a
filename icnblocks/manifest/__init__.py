"""Manifests and records: what a model is made of, and who says so. Pure: bytes in, values out."""
