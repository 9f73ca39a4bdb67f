"""Multi-hop tunnels: Alice sends content of any length to Bob through peers that she chose, and gets his
answer.

docs/architecture.md describes the rooms. User programs import the names below; the rooms import each other
directly. Each name is loaded at its first use: `mtun --help` needs none, and all together take a third of a
second.
"""

# Nothing is imported here, not even typing: Ctrl-C is a traceback until `tunnel.cli` sees to it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from tunnel.errors import ErrorCode, QueryFailed, TunnelError
    from tunnel.geometry import Profile
    from tunnel.local_network import LocalNetwork
    from tunnel.modes import ReplyMode
    from tunnel.node import Limits, Node, QueryResult
    from tunnel.routing.route import Route
    from tunnel.services import Echo, InnerService, Ping

__all__ = [
    "Echo",
    "ErrorCode",
    "InnerService",
    "Limits",
    "LocalNetwork",
    "Node",
    "Ping",
    "Profile",
    "QueryFailed",
    "QueryResult",
    "ReplyMode",
    "Route",
    "TunnelError",
]

__version__ = "0.1.0"  # pyproject.toml reads it here

_HOME = {
    "tunnel.errors": ("ErrorCode", "QueryFailed", "TunnelError"),
    "tunnel.geometry": ("Profile",),
    "tunnel.local_network": ("LocalNetwork",),
    "tunnel.modes": ("ReplyMode",),
    "tunnel.node": ("Limits", "Node", "QueryResult"),
    "tunnel.routing.route": ("Route",),
    "tunnel.services": ("Echo", "InnerService", "Ping"),
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
