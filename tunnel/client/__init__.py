"""What users of a node call: queries and tunnels from threads and services, and files of other nodes.

For asyncio: `tunnel.client.aio`.
"""

from tunnel.client.files import Fetched, FilesClient, Stored, get, list_files, put
from tunnel.client.services import ServiceClient
from tunnel.client.threads import Client, ThreadReply, ThreadStream, ThreadTunnel

__all__ = [
    "Client",
    "Fetched",
    "FilesClient",
    "ServiceClient",
    "Stored",
    "ThreadReply",
    "ThreadStream",
    "ThreadTunnel",
    "get",
    "list_files",
    "put",
]
