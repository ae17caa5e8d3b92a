"""Libraries of models that share blocks, and demand for them: traces made from a seed.

Numpy only, no I/O and no clock: whoever wants a file hands in a sink that writes one.
"""
