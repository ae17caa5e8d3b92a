"""Caches: a content store is a store + a byte budget + an eviction policy + pins."""
