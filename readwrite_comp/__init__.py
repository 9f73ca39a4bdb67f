"""Byte layers that compose: limiters, ciphers, and stacks of them over any stream.

`readwrite_comp.base` has the contract of a layer; `readwrite_comp.testing` checks it. Imports the standard
library and, in `primitives`, the crypto libraries; no sockets, clocks or threads. Anything may import it.
"""

from readwrite_comp.base import Ending, Event, ExtRead, ExtWrite, IdentityR, IdentityW, Phase
from readwrite_comp.comp import CompR, CompW, FileR, FileW
from readwrite_comp.errors import (
    AuthenticationError,
    BadParameter,
    EngineUnavailable,
    InUse,
    LayerError,
    LimitExceeded,
    LocalLayerError,
    Malformed,
    PhaseError,
    RemoteLayerError,
    Truncated,
)
from readwrite_comp.helpers import ByteReader, ByteWriter, Owed, Take
from readwrite_comp.inplace import InPlaceR, InPlaceW, StreamCipherR, StreamCipherW, Transform
from readwrite_comp.limiters import (
    EndStreamR,
    EndStreamW,
    EscapeTermR,
    EscapeTermW,
    PaddedWindowsR,
    PaddedWindowsW,
    Padding,
    SizedWindowsR,
    SizedWindowsW,
    WindowSizes,
)
from readwrite_comp.primitives import Aead, CtrStream, Engine, WideEngine, engine_names, get_engine
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
from readwrite_comp.wideblock import Hctr, Lioness, WideBlockR, WideBlockW, WidePermutation

__all__ = [
    "Aead",
    "AuthenticationError",
    "BadParameter",
    "ByteReader",
    "ByteWriter",
    "ChainExtRead",
    "CompExtR",
    "CompExtW",
    "CompR",
    "CompW",
    "CtrStream",
    "EndStreamR",
    "EndStreamW",
    "Ending",
    "Engine",
    "EngineUnavailable",
    "EscapeTermR",
    "EscapeTermW",
    "Event",
    "ExtRead",
    "ExtWrite",
    "FileR",
    "FileW",
    "Hctr",
    "IdentityR",
    "IdentityW",
    "InPlaceR",
    "InPlaceW",
    "InUse",
    "LayerError",
    "LimitExceeded",
    "Lioness",
    "LocalLayerError",
    "Malformed",
    "MultiRExt",
    "MultiWExt",
    "Owed",
    "PaddedWindowsR",
    "PaddedWindowsW",
    "Padding",
    "Phase",
    "PhaseError",
    "RemoteLayerError",
    "SealedR",
    "SealedW",
    "SharedR",
    "SharedW",
    "SizedWindowsR",
    "SizedWindowsW",
    "StreamCipherR",
    "StreamCipherW",
    "Take",
    "Transform",
    "Truncated",
    "WideBlockR",
    "WideBlockW",
    "WideEngine",
    "WidePermutation",
    "WindowSizes",
    "engine_names",
    "get_engine",
    "read_exact_from",
    "read_to_end",
    "write_all_into",
]
