"""From a configuration to a running node: its peers, keys, services and state.

Used by `mtun node`, by the commands that are clients, and by programs (`open_node`). Imports everything but
the command line and the clients.
"""

from tunnel.running.configured_node import (
    ConfiguredNode,
    Peers,
    load_peers,
    make_node,
    open_node,
    reach_some,
    settle,
)

__all__ = ["ConfiguredNode", "Peers", "load_peers", "make_node", "open_node", "reach_some", "settle"]
