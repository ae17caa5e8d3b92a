"""Which edge keeps which model: the literature's cache placement, and the plan that comes of it.

Demand and links are known here, and all edges are thought through together; what one cache does
by itself while requests come in is `icnblocks.cache`'s. Nothing in here may use the network or
read a clock.
"""
