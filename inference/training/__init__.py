"""Scripts that train the weights that ship, one file per trained model. Nothing that serves imports them.

Imports `inference.models` and `inference.model`; they need the extra `training`.
"""
