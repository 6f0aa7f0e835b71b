"""The wire protocol, version 1: the server's side and the client's side. Pure: no I/O, no clock.

Imports `stream_server.errors`, `inference.model` and `inference.items` only.
"""
