"""Inner services: what a node does with the queries that reach it."""

from tunnel.services.attachments import pack_attachments
from tunnel.services.base import InnerService, Query, Reply, ServiceFunction, Tunnel
from tunnel.services.blocking import BlockingQuery, BlockingReply, BlockingService, blocking
from tunnel.services.echo import Echo
from tunnel.services.file_requests import FileEntry, FileStatus
from tunnel.services.files import Files, FilesSettings
from tunnel.services.names import safe_name
from tunnel.services.ping import Ping
from tunnel.services.router import Services, service_prefix
from tunnel.services.saving import AttachmentLimits, SavedAttachment, save_attachments

__all__ = [
    "AttachmentLimits",
    "BlockingQuery",
    "BlockingReply",
    "BlockingService",
    "Echo",
    "FileEntry",
    "FileStatus",
    "Files",
    "FilesSettings",
    "InnerService",
    "Ping",
    "Query",
    "Reply",
    "SavedAttachment",
    "ServiceFunction",
    "Services",
    "Tunnel",
    "blocking",
    "pack_attachments",
    "safe_name",
    "save_attachments",
    "service_prefix",
]
