"""The worker processes: how they are started, given work, watched and replaced. On asyncio.

Imports `inference.wire`, `inference.token_bucket`, `inference.items` and `inference.model`; never the scheduler or
a model.
"""
