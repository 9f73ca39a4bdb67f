"""A running node: the onion protocol joined to sockets by services of the reactor.

Rooms: links (neighbours), relay (frames that pass), query (the user's own), answer (frames that end here),
tunnels (established ones). Clients, control, config and the command line import it; byte code never does.
"""

from tunnel.node.context import FrameReport, address_rules
from tunnel.node.limits import Limits, LinkPolicy
from tunnel.node.node import LOCAL_NETWORK_ID, Node
from tunnel.node.query.incoming_replies import QueryResult
from tunnel.routing.peers import PeerListener

__all__ = [
    "LOCAL_NETWORK_ID",
    "FrameReport",
    "Limits",
    "LinkPolicy",
    "Node",
    "PeerListener",
    "QueryResult",
    "address_rules",
]
