"""What others serve models with, on the same work as the stream server: one small server and its requirements each.

A peer's module needs the packages of its own requirements file, so it is run by a Python of its own
(`environments`), and the benchmarks never import it. `catalogue` lists them.
"""
