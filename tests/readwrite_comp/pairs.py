"""Pairs of layers for the tests: every layer with small windows, so that short contents fill many of them,
and random stacks.
"""

from __future__ import annotations

from hypothesis import strategies as st

from readwrite_comp import (
    CompExtR,
    CompExtW,
    EndStreamR,
    EndStreamW,
    EscapeTermR,
    EscapeTermW,
    ExtRead,
    ExtWrite,
    Hctr,
    IdentityR,
    IdentityW,
    Lioness,
    MultiRExt,
    MultiWExt,
    PaddedWindowsR,
    PaddedWindowsW,
    SealedR,
    SealedW,
    SizedWindowsR,
    SizedWindowsW,
    StreamCipherR,
    StreamCipherW,
    WideBlockR,
    WideBlockW,
    WindowSizes,
)
from readwrite_comp.limiters import Padding
from readwrite_comp.primitives import Engine, get_engine
from readwrite_comp.testing import HostileWriter, MakePair, write_message

KEY = bytes(range(32))
LIONESS_KEYS = bytes(range(128))
GROWING = WindowSizes(5, (4, 3), 40)

Pair = tuple[ExtWrite, ExtRead]


def wire_of(writer: ExtWrite, *contents: bytes) -> bytes:
    """The wire bytes of messages in sequence, on a stream that never refuses."""
    w = HostileWriter()
    for content in contents:
        write_message(writer, w, content)
    return bytes(w.data)


def lioness(block_bytes: int = 40, engine: Engine | None = None, keys: bytes = LIONESS_KEYS) -> Lioness:
    return Lioness(keys, block_bytes, engine or get_engine())


def _sealed(engine: str) -> Pair:
    chosen = get_engine(engine)
    return SealedW(KEY, chunk_bytes=16, engine=chosen), SealedR(KEY, chunk_bytes=16, engine=chosen)


def _stream_cipher(engine: str) -> Pair:
    chosen = get_engine(engine)
    return StreamCipherW(KEY, engine=chosen), StreamCipherR(KEY, engine=chosen)


def _wide_block(engine: str, *, inverse: bool = False) -> Pair:
    permutation = lioness(engine=get_engine(engine))
    return (
        WideBlockW(permutation, first_tweak=3, inverse=inverse),
        WideBlockR(permutation, first_tweak=3, inverse=inverse),
    )


def _hctr() -> Pair:
    permutation = Hctr(LIONESS_KEYS[:64], 40)
    return WideBlockW(permutation), WideBlockR(permutation)


LAYERS: dict[str, MakePair] = {
    "identity": lambda: (IdentityW(), IdentityR()),
    "sized": lambda: (SizedWindowsW(GROWING), SizedWindowsR(GROWING)),
    "sized_one": lambda: (
        SizedWindowsW(WindowSizes(1), padding=Padding.ZERO),
        SizedWindowsR(WindowSizes(1), padding=Padding.ZERO),
    ),
    "sized_zero": lambda: (
        SizedWindowsW(WindowSizes(15), padding=Padding.ZERO),
        SizedWindowsR(WindowSizes(15), padding=Padding.ZERO),
    ),
    "sized_written": lambda: (
        SizedWindowsW(GROWING, size_written=True),
        SizedWindowsR(GROWING, size_written=True),
    ),
    "padded": lambda: (PaddedWindowsW(16), PaddedWindowsR(16)),
    "padded_zero": lambda: (
        PaddedWindowsW(7, padding=Padding.ZERO),
        PaddedWindowsR(7, padding=Padding.ZERO),
    ),
    "end_stream": lambda: (EndStreamW(15), EndStreamR(15)),
    "end_stream_one": lambda: (EndStreamW(1, padding=Padding.ZERO), EndStreamR(1)),
    "escape": lambda: (EscapeTermW(0), EscapeTermR(0)),
    "escape_255": lambda: (EscapeTermW(255), EscapeTermR(255)),
    "stream_cipher": lambda: _stream_cipher("openssl"),
    "stream_cipher_pycryptodome": lambda: _stream_cipher("pycryptodome"),
    "sealed": lambda: _sealed("openssl"),
    "sealed_pycryptodome": lambda: _sealed("pycryptodome"),
    "wide_block": lambda: _wide_block("openssl"),
    "wide_block_hctr": _hctr,
    "wide_block_inverse": lambda: _wide_block("pycryptodome", inverse=True),
}

# Around the edges of the windows and blocks above.
EDGES = (0, 1, 6, 7, 8, 14, 15, 16, 17, 31, 32, 33, 39, 40, 41, 79, 80, 81, 200)


def is_authenticated(names: list[str]) -> bool:
    return any(name.startswith("sealed") for name in names)


def stack_of(names: list[str], *, nested: bool = False) -> MakePair:
    """Return a maker of the stack of the named layers, the first next to the stream; nested: by CompExt of
    CompExt.
    """

    def make() -> Pair:
        writers, readers = zip(*(LAYERS[name]() for name in names), strict=True)
        if not nested:
            return MultiWExt(writers), MultiRExt(readers)
        writer, reader = writers[-1], readers[-1]
        for outer_w, outer_r in zip(writers[-2::-1], readers[-2::-1], strict=True):
            writer, reader = CompExtW(outer_w, writer), CompExtR(outer_r, reader)
        return writer, reader

    return make


layer_names = st.sampled_from(sorted(LAYERS))
stacks = st.lists(layer_names, min_size=1, max_size=6)
scripts = st.lists(st.one_of(st.just(0), st.integers(1, 3), st.integers(1, 100)), max_size=120)
splits = st.lists(st.integers(1, 90), min_size=1, max_size=5)
contents = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(EDGES).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
)
