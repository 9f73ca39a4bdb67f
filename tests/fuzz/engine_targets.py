"""The two engines with the same input: the same bytes, or the same refusal.

A difference on hostile input is a fault, even if both answers are allowed: a peer could tell which library a
node runs, or have an input accepted by a part of the network only.
"""

from __future__ import annotations

from collections.abc import Callable

from readwrite_comp.errors import LayerError
from readwrite_comp.primitives import Aead, Engine
from readwrite_comp.wideblock import HCTR_KEY_BYTES, LIONESS_KEY_BYTES, Hctr, Lioness
from tests.fuzz.target import Input, target
from tests.support.engines import ENGINES, PRIME
from tests.support.hpke import key_and_nonce
from tunnel.crypto.primitives import TunnelEngine
from tunnel.errors import TunnelError

_ORDER = 2**252 + 27742317777372353535851937790883648493
# Encodings of points of low order, canonical or not, with either sign; then what is no encoding at all.
_LOW_Y = (0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,)
_NUMBERS = [0, 1, 2, 9, 18, PRIME - 1, PRIME, PRIME + 1, 2**255 - 1, *_LOW_Y, *(PRIME - y for y in _LOW_Y)]
# The x-coordinates of order 8 on the Montgomery curve (RFC 7748; Bernstein, "Curve25519").
_NUMBERS += [
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]
_POINTS = [number.to_bytes(32, "little") for number in _NUMBERS]
_POINTS += [(number | 1 << 255).to_bytes(32, "little") for number in _NUMBERS]
_SEEDS = [bytes([each]) * 32 for each in (0, 1, 0x7F, 0xFF)]
_LENGTHS = [0, 1, 15, 16, 17, 31, 32, 33, 255, 1_000, 16_356]


def _same(call: Callable[[TunnelEngine], object]) -> object:
    """The outcome of a call, which must be the same in both engines."""
    outcomes: list[tuple[object, object]] = []
    for engine in ENGINES:
        try:
            outcomes.append((None, call(engine)))
        except (TunnelError, LayerError) as error:
            outcomes.append(((type(error), str(error), error.__cause__), None))
    assert outcomes[0] == outcomes[1], outcomes
    return outcomes[0][1]


def _layers(call: Callable[[Engine], object]) -> object:
    return _same(lambda engine: call(engine.layers))


def _point(given: Input) -> bytes:
    match given.number(0, 3):
        case 0:
            return given.one_of(_POINTS)
        case 1:
            return given.some(33)
        case _:
            return given.take(32)


@target(most_bytes=100)
def engines_x25519(given: Input) -> None:
    """Any private key with any point, also of low order, not canonical, or of a wrong length."""
    private = given.one_of([*_SEEDS, given.take(32), given.some(33)])
    point = _point(given)
    _same(lambda engine: engine.x25519_private(private).public)
    _same(lambda engine: engine.hpke_private(private).public)
    shared = _same(lambda engine: engine.x25519_private(private).exchange(point))
    assert shared is None or shared != bytes(32)


@target(most_bytes=300)
def engines_ed25519(given: Input) -> None:
    """Signatures with another s, R or key: changed, raised by the order, of low order, not canonical."""
    seed = given.one_of([*_SEEDS, given.take(32)])
    message = given.some(64)
    public = _same(lambda engine: engine.ed25519_public(seed))
    signature = _same(lambda engine: engine.ed25519_sign(seed, message))
    assert isinstance(public, bytes)
    assert isinstance(signature, bytes)
    point, s = signature[:32], int.from_bytes(signature[32:], "little")
    match given.number(0, 4):
        case 0:
            edges = [_ORDER, 0, _ORDER - 1, _ORDER + 1, 2**255, 2**256 - 1]
            s = given.one_of([s + _ORDER, s + 2 * _ORDER, *edges])
        case 1:
            point = _point(given)
        case 2:
            public = _point(given)
        case 3:
            public, point, s = _point(given), _point(given), given.one_of([0, 1, _ORDER, 2**255 - 1])
    shown = point + (s % 2**256).to_bytes(32, "little")
    shown = given.one_of([shown, shown, shown + b"\0", shown[:-1]])
    checked = given.one_of([message, message, message + b"\0"])
    verdict = _same(lambda engine: _verified(engine, public, checked, shown))
    if verdict is not None:
        assert s < _ORDER, "malleable"
        assert int.from_bytes(public, "little") & (2**255 - 1) < PRIME


@target(most_bytes=400)
def engines_hpke(given: Input) -> None:
    """Sealing to any point, and opening what the other sealed, what was made by hand, and any bytes."""
    private = given.one_of([_SEEDS[1], given.take(32)])
    info, plaintext = given.some(200), given.some(100)
    point = _point(given)
    sealed_to = [_refuses(engine, point, info, plaintext) for engine in ENGINES]
    assert sealed_to[0] == sealed_to[1]
    for sealer in ENGINES:
        sealed = bytearray(sealer.hpke_seal(sealer.hpke_private(private).public, info, plaintext))
        sealed[given.number(0, len(sealed) - 1)] ^= given.one_of([0, 1, 0x80])
        _open(private, bytes(sealed), info)
    _open(private, _by_hand(given, private, info, plaintext), info)
    _open(private, given.one_of([point + given.rest(), given.rest()]), info)


def _verified(engine: TunnelEngine, public: bytes, message: bytes, signature: bytes) -> bool:
    engine.ed25519_verify(public, message, signature)
    return True


def _refuses(engine: TunnelEngine, point: bytes, info: bytes, plaintext: bytes) -> bool:
    try:
        engine.hpke_seal(point, info, plaintext)
    except TunnelError:
        return True
    return False


def _open(private: bytes, sealed: bytes, info: bytes) -> None:
    _same(lambda engine: engine.hpke_open(engine.hpke_private(private), sealed, info))


def _by_hand(given: Input, private: bytes, info: bytes, plaintext: bytes) -> bytes:
    """Sealed with an ephemeral point in another form, as which it is hashed or not."""
    engine = ENGINES[0]
    sender, receiver = engine.x25519_private(given.take(32)), engine.hpke_private(private).public
    shown = sender.public[:31] + bytes([sender.public[31] | 0x80])
    hashed = given.one_of([shown, sender.public])
    key, nonce = key_and_nonce(sender.exchange(receiver), hashed + receiver, info)
    return shown + engine.layers.aead(key).seal(nonce, plaintext)


@target(most_bytes=400)
def engines_aead(given: Input) -> None:
    """AES-256-GCM: any lengths, with empty and long associated data, wrong tags and wrong parameters."""
    key = given.one_of([given.take(32), given.some(33)])
    nonce = given.one_of([given.take(12), given.some(16)])
    plaintext = given.some(40) + bytes(given.one_of(_LENGTHS))
    aad = given.one_of([b"", given.some(40), bytes(70_000)])
    sealed = _layers(lambda layers: layers.aead(key).seal(nonce, plaintext, aad))
    shown = bytearray(sealed if isinstance(sealed, bytes) else given.some(40))
    if shown:
        shown[given.number(0, len(shown) - 1)] ^= given.one_of([0, 0, 1])
    shown = shown[: given.one_of([len(shown), given.number(0, len(shown))])]
    opened = _layers(lambda layers: layers.aead(key).open(nonce, bytes(shown), aad))
    assert opened is None or (opened == plaintext and shown == sealed)
    room = given.one_of([max(0, len(shown) - 16), given.number(0, 40)])
    _layers(lambda layers: _opened_into(layers.aead(key), nonce, bytes(shown), aad, room))


def _opened_into(aead: Aead, nonce: bytes, shown: bytes, aad: bytes, room: int) -> tuple[str, bytes]:
    """What a call leaves in its output, with the name of its error."""
    out = bytearray(b"\x55" * room)
    try:
        aead.open_into(nonce, shown, aad, memoryview(out))
    except LayerError as error:
        return type(error).__name__, bytes(out)
    return "", bytes(out)


@target(most_bytes=400)
def engines_streams(given: Input) -> None:
    """Keystreams from any counter, also one that wraps around; blocks; the GHASH behind HCTR."""
    key = given.one_of([given.take(32), given.some(33)])
    counter = given.one_of([given.take(16), b"\xff" * 16, bytes(4) + b"\xff" * 12, given.some(17)])
    content = given.some(100) + bytes(given.one_of(_LENGTHS))

    def stream(layers: Engine) -> bytes:
        data, made = bytearray(content), layers.ctr(key, counter)
        middle = len(data) // 3
        made.apply(memoryview(data)[:middle])
        out = bytearray(len(data) - middle)
        made.apply_into(bytes(data[middle:]), memoryview(out))
        return bytes(data[:middle] + out)

    def keystream(layers: Engine) -> bytes:
        data = bytearray(content)
        layers.xor_keystream(key, memoryview(data))
        return bytes(data)

    _layers(stream)
    _layers(keystream)
    _layers(lambda layers: bytes(layers.gmac(key)(content)))
    _layers(lambda layers: layers.block_cipher(key).encrypt(content[:16].ljust(16, b"\0")))
    _layers(lambda layers: layers.block_cipher(key).decrypt(content[:16].ljust(16, b"\0")))


@target(most_bytes=400)
def engines_wide_blocks(given: Input) -> None:
    """LIONESS and HCTR of any length: both engines permute the same, and undo each other."""
    is_lioness = given.flag()
    key_bytes, least = (LIONESS_KEY_BYTES, 33) if is_lioness else (HCTR_KEY_BYTES, 17)
    keys = given.take(key_bytes)
    length = given.one_of([least - 1, least, least + 1, 48, 49, 996, 8_164, given.number(0, 2_000)])
    content = given.some(200).ljust(length, b"\0")[:length]
    tweak = given.one_of([0, 1, given.number(0, 2**64 - 1), 2**64 - 1, 2**64])

    def permuted(engine: TunnelEngine, data: bytes, *, inverse: bool) -> bytes:
        block = bytearray(data)
        made = (Lioness if is_lioness else Hctr)(keys, length, engine.layers)
        (made.decrypt if inverse else made.encrypt)(memoryview(block), tweak)
        return bytes(block)

    forward = _same(lambda engine: permuted(engine, content, inverse=False))
    backward = _same(lambda engine: permuted(engine, content, inverse=True))
    assert (forward is None) is (backward is None)
    if isinstance(forward, bytes):
        assert _same(lambda engine: permuted(engine, forward, inverse=True)) == content
