"""Established tunnels: both directions for as long as both ends want. Bytes only: see `tunnel`."""

from tunnel.established.halves import IncomingMessages, Notifier
from tunnel.established.keys import End, TunnelLimits
from tunnel.established.layouts import Target, TargetKind
from tunnel.established.streams import MessageWriter, SubStream
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
