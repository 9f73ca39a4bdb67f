"""Inner services: what a node does with the queries that reach it."""

from tunnel.services.base import InnerService, Query, Reply, Tunnel
from tunnel.services.echo import Echo
from tunnel.services.ping import Ping

__all__ = ["Echo", "InnerService", "Ping", "Query", "Reply", "Tunnel"]
