"""What runs next: the scheduler, its state, its statistics. Pure: no I/O, no clock, no asyncio.

Imports `inference.items` and `inference.model` only.
"""
