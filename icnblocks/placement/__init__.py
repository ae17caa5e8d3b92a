"""Placement: which block goes to which file and offset, and what is missing. Pure."""
