"""Sources of descriptors: files, the neighbours of a node, or a distributed hash table.

Imports `tunnel.identity` and the address rules of `tunnel.routing`. Nodes, routing and `mtun` import it.
"""

from tunnel.directory.base import Directory, StaticDirectory, ids_by_name
from tunnel.directory.dht import DhtDirectory
from tunnel.directory.exchange import ExchangeDirectory

__all__ = ["DhtDirectory", "Directory", "ExchangeDirectory", "StaticDirectory", "ids_by_name"]
