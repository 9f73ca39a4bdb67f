"""A running node as used by its owner's other programs: its control socket, from both sides.

Built on `tunnel.node` and `tunnel.config`. `tunnel.client`, `tunnel.running` and the command
line import it.
"""

from tunnel.control.client import CONTROL_FILE, ControlClient
from tunnel.control.messages import PeerState
from tunnel.control.server import ControlServer, peer_states

__all__ = ["CONTROL_FILE", "ControlClient", "ControlServer", "PeerState", "peer_states"]
