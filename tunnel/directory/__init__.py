"""Where descriptors come from: a file, the neighbours of a node, or a distributed hash table."""

from tunnel.directory.base import Directory, StaticDirectory
from tunnel.directory.dht import DhtDirectory
from tunnel.directory.exchange import ExchangeDirectory

__all__ = ["DhtDirectory", "Directory", "ExchangeDirectory", "StaticDirectory"]
