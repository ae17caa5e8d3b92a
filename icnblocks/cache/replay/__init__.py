"""Traces of model requests, and replaying them through a content store without bytes."""
