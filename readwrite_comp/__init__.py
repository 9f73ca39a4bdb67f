"""Byte layers that compose: limiters, ciphers, and stacks of them over any stream.

The contract that every layer keeps is in `readwrite_comp.base`; `readwrite_comp.testing` checks it.
"""

from .base import Ending, ExtRead, ExtWrite
from .blocks import WideBlockR, WideBlockW
from .chain import ChainExtRead
from .comp import CompR, CompW
from .endstream import EndStreamR, EndStreamW
from .errors import (
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
from .escapeterm import EscapeTermR, EscapeTermW
from .files import FileR, FileW
from .hctr import Hctr
from .helpers import ByteReader, ByteWriter, Owed, Take
from .identity import IdentityR, IdentityW
from .inplace import InPlaceR, InPlaceW, Transform
from .paddedwindows import PaddedWindowsR, PaddedWindowsW
from .padding import Padding
from .phases import Event, Phase
from .primitives import Aead, CtrStream, Engine, WideEngine, engine_names, get_engine
from .sealed import SealedR, SealedW
from .shared import SharedR, SharedW
from .sizedwindows import SizedWindowsR, SizedWindowsW, WindowSizes
from .stack import CompExtR, CompExtW, MultiRExt, MultiWExt
from .streamcipher import StreamCipherR, StreamCipherW
from .whole import read_exact_from, read_to_end, write_all_into
from .wideblock import Lioness, WidePermutation

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
