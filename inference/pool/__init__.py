"""The worker processes: how they are started, given work, watched and replaced. On asyncio.

Imports `inference.wire`, `inference.items`, `inference.model` and `inference.token_bucket`; never the scheduler or a
model.
"""
