"""Measurements: what the server costs under load, and how well its models do. Packages, each importing those above:

- `failures`: what ends a benchmark without a figure
- `report`: figures, tables and plots as a suite returns them, and how they are shown
- `load`: the load generator, and the servers that it runs against
- `peers`: other model servers, installed, started and driven in turn
- `scenarios`: the suites of ``stream-server bench``
- `engine`: the suites of ``python -m benchmarks``
"""
