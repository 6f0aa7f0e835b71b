"""The suites of ``stream-server bench``, by name in `catalogue`, each in a module of its own.

May import everything in `benchmarks`, and the public client of `stream_server`. `catalogue` imports
nothing optional, because the command line reads it before anything is measured.
"""
