"""What users of a node call: queries and tunnels from threads and services, and files of other nodes.

For asyncio: `tunnel.client.aio`.
"""

from tunnel.client.files import Fetched, FilesClient, Stored, get, list_files, put
from tunnel.client.services import ServiceClient
from tunnel.client.threads import Client, ThreadReply, ThreadStream, ThreadTunnel
from tunnel.control import ControlClient, PeerState, connect

__all__ = [
    "Client",
    "ControlClient",
    "Fetched",
    "FilesClient",
    "PeerState",
    "ServiceClient",
    "Stored",
    "ThreadReply",
    "ThreadStream",
    "ThreadTunnel",
    "connect",
    "get",
    "list_files",
    "put",
]
