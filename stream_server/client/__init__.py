"""The clients: asynchronous (`connect`) and synchronous (`connect_sync`). On websockets.

Imports `stream_server.protocol` and `stream_server.errors`; never the server.
"""
