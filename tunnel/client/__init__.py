"""Clients of a node: queries and tunnels from threads and services, and file transfer. For asyncio: `aio`.

Built on `tunnel.node`, `tunnel.services`, `tunnel.front`, `tunnel.control` and `tunnel.running`. User
programs and the command line import it.
"""

from tunnel.client.clients import Client, ServiceClient, ThreadReply, ThreadStream, ThreadTunnel
from tunnel.client.connect import ClientNode, ConnectedNode, connect
from tunnel.client.files import Fetched, FilesClient, Stored, get, list_files, put
from tunnel.control import ControlClient, PeerState
from tunnel.front.socks_server import SocksServer

__all__ = [
    "Client",
    "ClientNode",
    "ConnectedNode",
    "ControlClient",
    "Fetched",
    "FilesClient",
    "PeerState",
    "ServiceClient",
    "SocksServer",
    "Stored",
    "ThreadReply",
    "ThreadStream",
    "ThreadTunnel",
    "connect",
    "get",
    "list_files",
    "put",
]
