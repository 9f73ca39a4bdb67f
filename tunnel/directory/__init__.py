"""Where descriptors come from: a file, the neighbours of a node, or a distributed hash table."""

from tunnel.directory.base import Directory
from tunnel.directory.dht import DhtDirectory
from tunnel.directory.exchange import ExchangeDirectory
from tunnel.directory.static_file import StaticDirectory

__all__ = ["DhtDirectory", "Directory", "ExchangeDirectory", "StaticDirectory"]
