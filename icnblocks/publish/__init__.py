"""Publishing: a model directory becomes blocks, a manifest and a signed record."""
