"""Established tunnels at both ends: opening, use, sub-streams.

Joins `tunnel.established` to the streams of a node. `tunnel.node` and the clients import it.
"""
