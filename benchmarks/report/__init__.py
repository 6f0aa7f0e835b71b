"""Results of benchmarks, and how they are shown: on a terminal, as JSON and as an HTML page with plots.

`results` are the values that a suite returns; `terminal` runs suites and prints, stores and renders what they give.
Measures nothing but the time of the run and the machine's state (`environment`). May import `failures`.
"""
