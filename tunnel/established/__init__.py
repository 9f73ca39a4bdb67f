"""Established tunnels as bytes: messages, sub-streams, credit and keys of both directions.

No sockets, clocks, threads or reactor. `tunnel.node.tunnels` joins it to the streams of a node.
"""

from tunnel.established.keys import End, TunnelLimits
from tunnel.established.layouts import Target, TargetKind
from tunnel.established.streams import IncomingMessages, MessageWriter, Notifier, SubStream
from tunnel.established.tunnel import EstablishedTunnel

__all__ = [
    "End",
    "EstablishedTunnel",
    "IncomingMessages",
    "MessageWriter",
    "Notifier",
    "SubStream",
    "Target",
    "TargetKind",
    "TunnelLimits",
]
