"""Made-up results that contain everything a report shows."""

from __future__ import annotations

from benchmarks.report.results import Figure, Grid, Plot, Results, Section, Series, none

SERVERS = ("stream-server", "a <peer> & co", "another peer")

COST = Plot(
    "CPU per frame",
    "server",
    "CPU ms per frame",
    (Series("echo", ((0.0, 0.11), (1.0, 0.5), (2.0, 2.25)), ((0.1, 0.12), (0.4, 0.6), (2.0, 2.5))),),
    "bar",
    SERVERS,
    log=True,
)
AGE = Plot(
    "Age under overload",
    "seconds since the start",
    "age p99, ms",
    (
        Series("stream-server", tuple((t / 4, 70.0 + t % 3) for t in range(32))),
        Series("a <peer> & co", tuple((t / 4, 60.0 + 400 * t) for t in range(32))),
    ),
    limit=200.0,
    limit_name="bound of 200 ms",
    log=True,
)
LATENCY = Plot(
    "Latency against load",
    "texts/s",
    "ms from scheduled to answered",
    (
        Series("p50", ((1000.0, 1.1), (2000.0, 1.4), (4000.0, 4.0))),
        Series("p99", ((1000.0, 4.1), (2000.0, 5.4), (4000.0, 24.0)), ((4.0, 5.0), (5.0, 6.0), (20.0, 31.0))),
    ),
)
RESULTS = Results(
    {"date": "2026-01-02", "processor": "a processor", "cores": 2, "python": "3.11.7", "seconds": 812.4},
    (
        Section(
            "echo",
            "Frames to the null model.\n\nIt shows no network.",
            (
                Figure("CPU per frame, to the peer's", (0.7, 0.8, 0.75), "x", "<=", 1.0, "0.11 to 0.16 ms"),
                Figure("frames per second", (900.0, 1000.0), "/s", ">=", 2000.0),
            ),
            (
                Grid(
                    "Rates", ("server", "frames/s"), (("stream-server", 12345.0), ("a <peer> & co", 3.14159))
                ),
            ),
            (COST,),
        ),
        Section(
            "overload", "Too many cameras.", (none("frames unaccounted for", 0, "of 9,600"),), plots=(AGE,)
        ),
        Section("text", "Texts at random.", plots=(LATENCY,)),
        Section(
            "camera", "", (Figure("goodput", (1.0,), "/s", ">=", 0.5),), void="the generator was late <b>"
        ),
    ),
)
