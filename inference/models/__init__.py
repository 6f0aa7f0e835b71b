"""The models that ship, one file each. They run in worker processes, as any user's model.

Imports `inference.model` and `inference.image` only.
"""
