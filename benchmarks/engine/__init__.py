"""The engine's own figures, each with a target: make bench-engine, python -m benchmarks."""
