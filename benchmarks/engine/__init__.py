"""The engine's own figures, each with a target: ``make bench-engine``, ``python -m benchmarks``.

One suite per module, listed in `suites`. May import everything in `benchmarks` except `scenarios`, and `inference`.
"""
