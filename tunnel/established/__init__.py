"""Established tunnels as bytes: messages, sub-streams, credit and keys of both directions.

No sockets, clocks, threads or reactor. Imports `onion` and `crypto`; `node.tunnels` joins it to link streams.
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
