"""Multi-hop tunnels: Alice sends content of any length to Bob through a chain of peers, and receives his
reply.

docs/architecture.md describes the rooms. User programs import the names below; the rooms import each other
directly. Each name is loaded at its first use: `mtun --help` needs none, and all together take a third of a
second.
"""

# No imports here, not even typing: until `tunnel.cli` handles Ctrl-C, it shows a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from tunnel.client import Client, connect
    from tunnel.directory import Directory
    from tunnel.errors import ErrorCode, QueryFailed, TunnelError
    from tunnel.geometry import Profile
    from tunnel.identity.keys import NodeKeys
    from tunnel.local_network import LocalNetwork
    from tunnel.modes import ErrorMode, ReplyMode
    from tunnel.node import Limits, Node, QueryResult
    from tunnel.routing.route import Route
    from tunnel.running import open_node
    from tunnel.services import Echo, InnerService, Ping, Services, blocking

__all__ = [
    "Client",
    "Directory",
    "Echo",
    "ErrorCode",
    "ErrorMode",
    "InnerService",
    "Limits",
    "LocalNetwork",
    "Node",
    "NodeKeys",
    "Ping",
    "Profile",
    "QueryFailed",
    "QueryResult",
    "ReplyMode",
    "Route",
    "Services",
    "TunnelError",
    "blocking",
    "connect",
    "open_node",
]

__version__ = "0.1.0"  # pyproject.toml reads it here

_HOME = {
    "tunnel.client": ("Client", "connect"),
    "tunnel.directory": ("Directory",),
    "tunnel.errors": ("ErrorCode", "QueryFailed", "TunnelError"),
    "tunnel.geometry": ("Profile",),
    "tunnel.identity.keys": ("NodeKeys",),
    "tunnel.local_network": ("LocalNetwork",),
    "tunnel.modes": ("ErrorMode", "ReplyMode"),
    "tunnel.node": ("Limits", "Node", "QueryResult"),
    "tunnel.routing.route": ("Route",),
    "tunnel.running": ("open_node",),
    "tunnel.services": ("Echo", "InnerService", "Ping", "Services", "blocking"),
}


def __getattr__(name: str) -> object:
    import importlib

    for module, names in _HOME.items():
        if name in names:
            found = globals()[name] = getattr(importlib.import_module(module), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
