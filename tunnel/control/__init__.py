"""A running node, used by its owner's other programs: its control socket, from both sides."""

from tunnel.control.client import CONTROL_FILE, ControlClient, connect
from tunnel.control.messages import PeerState
from tunnel.control.server import ControlServer

__all__ = ["CONTROL_FILE", "ControlClient", "ControlServer", "PeerState", "connect"]
