"""Inner services: what a node does with the queries that reach it."""

from tunnel.services.base import InnerService, Query, Reply, ServiceFunction, Tunnel
from tunnel.services.echo import Echo
from tunnel.services.file_requests import FileEntry, FileStatus
from tunnel.services.files import Files, FilesSettings
from tunnel.services.names import safe_name
from tunnel.services.ping import Ping
from tunnel.services.router import Services, service_prefix

__all__ = [
    "Echo",
    "FileEntry",
    "FileStatus",
    "Files",
    "FilesSettings",
    "InnerService",
    "Ping",
    "Query",
    "Reply",
    "ServiceFunction",
    "Services",
    "Tunnel",
    "safe_name",
    "service_prefix",
]
