"""LitServe: an API of two workers, raw bodies; batches take what waits.

The annotation of ``decode_request`` tells FastAPI what to read: the body as it is, since the default would parse
JSON. LitServe starts as many HTTP servers as there are workers by default, and advises ``fast_queue`` (ZeroMQ)
above a hundred requests a second.
"""
# Annotations must be values here, not text: LitServe hands them to FastAPI from another module.

from typing import Annotated

import litserve
from fastapi import Body

from benchmarks.peers.shared import HOST, PATH, WORKERS, arguments
from benchmarks.peers.work import BATCHED, MAX_BATCH, MODELS, Answer

Payload = Annotated[bytes, Body(media_type="application/octet-stream")]


class Peer(litserve.LitAPI):
    """One model in each worker."""

    def __init__(self, model: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH if model.endswith(BATCHED) else 1, api_path=PATH)
        self._model = model

    def setup(self, device: str) -> None:
        """Load the model, in a worker."""
        self._predict = MODELS[self._model]()

    def decode_request(self, request: Payload) -> bytes:
        """Take the body as it is."""
        return request

    def predict(self, x: bytes | list[bytes]) -> Answer | list[Answer]:
        """Answer an item, or the batch that LitServe made."""
        return [self._predict(item) for item in x] if isinstance(x, list) else self._predict(x)

    def encode_response(self, output: Answer) -> Answer:
        """Leave it to FastAPI to write the JSON."""
        return output


def main() -> None:
    """Serve until SIGTERM."""
    port, model = arguments(__doc__)
    server = litserve.LitServer(
        Peer(model), accelerator="cpu", devices=1, workers_per_device=WORKERS, fast_queue=True
    )
    server.run(host=HOST, port=port, log_level="warning", access_log=False, generate_client_file=False)


if __name__ == "__main__":
    main()
