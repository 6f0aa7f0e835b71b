"""The load generator, and the servers it runs against.

A `run` starts a `generator` process per share of a load; the process (`load_process`) sends by its `schedule` over
one of the `transports` and reports `accounts` of its streams and `histograms` of its times. `raw_clients` hold
thousands of bare connections. `servers` starts servers and reads CPU times. May import `failures` and `report`.
"""
