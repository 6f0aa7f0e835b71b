"""Ray Serve: a deployment of two replicas behind its HTTP proxy, raw bodies, batches of one.

Replicas and proxy run with ``RAY_SERVE_THROUGHPUT_OPTIMIZED``, as Ray's performance guide advises, and without
access logs. Ray and its workers listen on the loopback alone, without the dashboard.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

MEMORY_BYTES = 128 * 2**20
"""Of Ray's object store, through which no request passes: near the least that it takes."""

os.environ |= {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"}

import ray  # noqa: E402  # after its settings
from ray import serve  # noqa: E402  # as above
from ray.serve.config import HTTPOptions  # noqa: E402  # as above
from ray.serve.schema import LoggingConfig  # noqa: E402  # as above
from starlette.requests import Request  # noqa: E402  # as above

from benchmarks.peers.shared import HOST, PATH, WORKERS, arguments  # noqa: E402  # as above
from benchmarks.peers.work import MODELS, Answer  # noqa: E402  # as above

ONGOING = 100
"""Requests that a replica holds. With the default of 5 the others wait in the proxy, and under overload the
replicas then answer a quarter of what they can."""

LOGS = LoggingConfig(log_level="WARNING", enable_access_log=False)


@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=ONGOING, logging_config=LOGS)
class Peer:
    """One model in each replica."""

    def __init__(self, model: str) -> None:
        self._predict = MODELS[model]()

    async def __call__(self, request: Request) -> Answer:
        """Answer an item."""
        return self._predict(await request.body())


def main() -> None:
    """Serve until SIGTERM."""
    port, model = arguments(__doc__)
    ray.init(
        num_cpus=WORKERS,
        object_store_memory=MEMORY_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address=HOST,
        _temp_dir=str(Path(tempfile.gettempdir()) / "ray"),
    )
    serve.start(http_options=HTTPOptions(host=HOST, port=port), logging_config=LOGS)
    serve.run(Peer.bind(model), route_prefix=PATH)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()


if __name__ == "__main__":
    main()
