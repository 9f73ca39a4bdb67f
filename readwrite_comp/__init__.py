"""Byte layers that compose: limiters, ciphers, and stacks of them over any stream.

The contract that every layer keeps is in `readwrite_comp.base`; `readwrite_comp.testing` checks it.
"""

from .base import Ending, ExtRead, ExtWrite
from .blocks import WideBlockR, WideBlockW
from .comp import CompR, CompW
from .endstream import EndStreamR, EndStreamW
from .errors import (
    AuthenticationError,
    BadParameter,
    EngineUnavailable,
    InUse,
    LayerError,
    LocalLayerError,
    Malformed,
    PhaseError,
    RemoteLayerError,
    Truncated,
)
from .escapeterm import EscapeTermR, EscapeTermW
from .hctr import Hctr
from .helpers import ByteReader, ByteWriter, Owed, Take
from .identity import IdentityR, IdentityW
from .inplace import InPlaceR, InPlaceW, Transform
from .paddedwindows import PaddedWindowsR, PaddedWindowsW
from .phases import Event, Phase
from .primitives import Aead, CtrStream, Engine, WideEngine, engine_names, get_engine
from .sealed import SealedR, SealedW
from .sizedwindows import Padding, SizedWindowsR, SizedWindowsW, WindowSizes
from .stack import CompExtR, CompExtW, MultiRExt, MultiWExt
from .streamcipher import StreamCipherR, StreamCipherW
from .wideblock import Lioness, WidePermutation

__all__ = [
    "Aead",
    "AuthenticationError",
    "BadParameter",
    "ByteReader",
    "ByteWriter",
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
    "Hctr",
    "IdentityR",
    "IdentityW",
    "InPlaceR",
    "InPlaceW",
    "InUse",
    "LayerError",
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
]
