"""The server: sessions, connections, HTTP, settings, metrics, and its life from start to drain. On aiohttp.

Imports `stream_server.protocol` and `inference`; never the client, recordings or commands.
"""
