"""The control socket of a running node, for the owner's other programs: server, client, messages.

Built on `tunnel.node`. `tunnel.client`, `tunnel.running` and the command line import it.
"""

from tunnel.control.client import CONTROL_FILE, ControlClient
from tunnel.control.messages import PeerState
from tunnel.control.server import ControlServer, peer_states

__all__ = ["CONTROL_FILE", "ControlClient", "ControlServer", "PeerState", "peer_states"]
