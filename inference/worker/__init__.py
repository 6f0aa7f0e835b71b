"""What runs in a worker process: loading models, decoding items, the sandbox. The server never imports it.

Imports `inference.wire`, `inference.image`, `inference.items` and `inference.model`.
"""
