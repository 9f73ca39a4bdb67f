"""Established tunnels at both ends."""
