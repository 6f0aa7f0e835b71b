"""What the server and its workers say to each other: framing, messages, and both ends of the channel.

Imports `inference.items` and `inference.model` only.
"""
