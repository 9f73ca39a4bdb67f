"""Inner services: the code that answers queries and tunnels at their destination.

Imports the reactor, `tunnel.disk`, `tunnel.established` and address rules, and nothing of a node. Nodes,
clients and user programs import it.
"""

from tunnel.services.attachments import AttachmentLimits, SavedAttachment, pack_attachments, save_attachments
from tunnel.services.base import (
    Echo,
    InnerService,
    NamedService,
    Ping,
    Query,
    Reply,
    ServiceFunction,
    Services,
    StreamService,
    Tunnel,
    service_prefix,
)
from tunnel.services.blocking import BlockingQuery, BlockingReply, BlockingService, blocking
from tunnel.services.exit import Exit, ExitSettings
from tunnel.services.file_requests import FileEntry, FileStatus
from tunnel.services.files import Files, FilesSettings
from tunnel.services.names import safe_name
from tunnel.services.published import Published
from tunnel.services.reverse import Reverse

__all__ = [
    "AttachmentLimits",
    "BlockingQuery",
    "BlockingReply",
    "BlockingService",
    "Echo",
    "Exit",
    "ExitSettings",
    "FileEntry",
    "FileStatus",
    "Files",
    "FilesSettings",
    "InnerService",
    "NamedService",
    "Ping",
    "Published",
    "Query",
    "Reply",
    "Reverse",
    "SavedAttachment",
    "ServiceFunction",
    "Services",
    "StreamService",
    "Tunnel",
    "blocking",
    "pack_attachments",
    "safe_name",
    "save_attachments",
    "service_prefix",
]
