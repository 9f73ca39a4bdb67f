"""A node's identity: its keys, its signed descriptor, and the state folder that holds them.

Imports `tunnel.crypto`, and `header` and `replay` of `tunnel.onion`; no sockets. Every room may import it.
"""
