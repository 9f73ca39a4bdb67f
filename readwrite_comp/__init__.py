"""Byte layers that compose: limiters, ciphers, and stacks of them over any stream. See `readwrite_comp.base`
for the contract."""

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
from .primitives import Aead, CtrStream, Engine, engine_names, get_engine
from .wideblock import Lioness, WidePermutation

__all__ = [
    "Aead",
    "AuthenticationError",
    "BadParameter",
    "CtrStream",
    "Engine",
    "EngineUnavailable",
    "InUse",
    "LayerError",
    "Lioness",
    "LocalLayerError",
    "Malformed",
    "PhaseError",
    "RemoteLayerError",
    "Truncated",
    "WidePermutation",
    "engine_names",
    "get_engine",
]
