"""Multi-hop tunnels: Alice sends content of any length to Bob through peers that she chose, and gets his
answer.
"""

from tunnel.errors import ErrorCode, QueryFailed, TunnelError
from tunnel.geometry import Profile
from tunnel.local_network import LocalNetwork
from tunnel.modes import ReplyMode
from tunnel.node import Limits, Node, QueryResult
from tunnel.route import Route
from tunnel.services import Echo, InnerService, Ping

__all__ = [
    "Echo",
    "ErrorCode",
    "InnerService",
    "Limits",
    "LocalNetwork",
    "Node",
    "Ping",
    "Profile",
    "QueryFailed",
    "QueryResult",
    "ReplyMode",
    "Route",
    "TunnelError",
]
