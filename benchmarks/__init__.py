"""Measurements: what the server costs, how well its models do."""
