"""A node's identity: its keys, its signed descriptor, and the state folder that holds them.

Imports `tunnel.crypto`, and the slot layout and replay table of `tunnel.onion`; no sockets. Every room may
import it.
"""
