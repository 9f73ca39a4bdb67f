"""Byte layers that compose: limiters, ciphers, and stacks of them over any stream.

Exported here are the names that users stack, run and catch. Authors of layers find the contract in `base`,
the tools in `helpers` and the checks in `testing`. Imports the standard library and, in `primitives`, the
crypto libraries; no sockets, clocks or threads. Every package may import it.
"""

from readwrite_comp.base import Ending, ExtRead, ExtWrite, IdentityR, IdentityW
from readwrite_comp.comp import CompR, CompW, FileR, FileW
from readwrite_comp.errors import (
    AuthenticationError,
    BadParameter,
    LayerError,
    LimitExceeded,
    LocalLayerError,
    Malformed,
    RemoteLayerError,
    Truncated,
)
from readwrite_comp.inplace import StreamCipherR, StreamCipherW
from readwrite_comp.limiters import (
    EndStreamR,
    EndStreamW,
    EscapeTermR,
    EscapeTermW,
    PaddedWindowsR,
    PaddedWindowsW,
    SizedWindowsR,
    SizedWindowsW,
    WindowSizes,
)
from readwrite_comp.sealed import SealedR, SealedW
from readwrite_comp.shared import SharedR, SharedW
from readwrite_comp.stack import (
    ChainExtRead,
    CompExtR,
    CompExtW,
    MultiRExt,
    MultiWExt,
    read_exact_from,
    read_to_end,
    write_all_into,
)
from readwrite_comp.wideblock import Hctr, Lioness, WideBlockR, WideBlockW

__all__ = [
    "AuthenticationError",
    "BadParameter",
    "ChainExtRead",
    "CompExtR",
    "CompExtW",
    "CompR",
    "CompW",
    "EndStreamR",
    "EndStreamW",
    "Ending",
    "EscapeTermR",
    "EscapeTermW",
    "ExtRead",
    "ExtWrite",
    "FileR",
    "FileW",
    "Hctr",
    "IdentityR",
    "IdentityW",
    "LayerError",
    "LimitExceeded",
    "Lioness",
    "LocalLayerError",
    "Malformed",
    "MultiRExt",
    "MultiWExt",
    "PaddedWindowsR",
    "PaddedWindowsW",
    "RemoteLayerError",
    "SealedR",
    "SealedW",
    "SharedR",
    "SharedW",
    "SizedWindowsR",
    "SizedWindowsW",
    "StreamCipherR",
    "StreamCipherW",
    "Truncated",
    "WideBlockR",
    "WideBlockW",
    "WindowSizes",
    "read_exact_from",
    "read_to_end",
    "write_all_into",
]
