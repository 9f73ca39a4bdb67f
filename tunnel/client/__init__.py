"""What users of a node call: queries and tunnels from threads, services and asyncio, and files of other
nodes.
"""

from tunnel.client.files import Fetched, FilesClient, Stored, get, list_files, put

__all__ = ["Fetched", "FilesClient", "Stored", "get", "list_files", "put"]
