"""Recordings of streams: written, read and compared.

Imports `stream_server.protocol` only.
"""
