"""Established tunnels: the layouts of their chunks, and both ends as state machines."""

from __future__ import annotations

from itertools import count

from tests.fuzz.target import ENGINE, Input, raised, target
from tests.tunnel.tunnels import ECHO, SEED, Flag, RawEnd
from tunnel.errors import (
    ErrorCode,
    LocalTunnelError,
    MalformedMessage,
    PeerError,
    TargetNotAllowed,
    TunnelSilent,
)
from tunnel.established import End, EstablishedTunnel, SubStream, TunnelLimits
from tunnel.established.layouts import (
    HELLO_BYTES,
    PROOF_BYTES,
    Hello,
    Pad,
    pack_close,
    pack_credit,
    unpack_close,
    unpack_credit,
    unpack_open,
)
from tunnel.established.receipts import BobChallenges
from tunnel.geometry import INTERACTIVE, unproven_bytes
from tunnel.identity.client_key import Claim, ClientKey
from tunnel.onion.message import ChunkType

_DATA_BYTES = INTERACTIVE.chunk_data_bytes
_LIMITS = TunnelLimits(window_chunks=4, sub_streams=4, rekey_chunks=7, rekey_s=50.0)
# Four sub-streams of either end and the messages, with a window of four chunks in each direction.
_MOST_HELD_BYTES = 2 * (4 + 4 + 1) * 4 * _DATA_BYTES
_CLIENT = ClientKey(bytes(range(32)))
_BINDING = bytes(range(1, 33))


@target(MalformedMessage, most_bytes=400)
def tunnel_layouts(given: Input) -> None:
    """What a chunk holds packs to the same bytes."""
    kind = given.one_of(["hello", "open", "close", "credit", "pad"])
    data = given.rest()
    match kind:
        case "hello":
            data = data.ljust(HELLO_BYTES, b"\0")
            assert Hello.unpack(data, least_window=1, least_sub_streams=1).pack() == data
        case "open":
            target_of, proof = unpack_open(data)
            assert target_of.pack() + proof == data
            assert len(proof) in (0, PROOF_BYTES)
            assert str(target_of).isprintable()
        case "close":
            assert pack_close(unpack_close(data)) == data
        case "credit":
            assert pack_credit(unpack_credit(data)) == data
        case _:
            assert Pad.unpack(data).pack() == data


@target(TargetNotAllowed, most_bytes=160)
def client_proof(given: Input) -> None:
    """A proof counts with every bit, for its own binding and target."""
    proof = bytearray(_CLIENT.proof(ENGINE, _BINDING, ECHO.pack()))
    proof[given.number(0, PROOF_BYTES - 1)] ^= given.number(0, 255)
    binding = given.one_of([_BINDING, b"", given.take(32)])
    shown = given.one_of([bytes(proof), given.some(PROOF_BYTES + 1), bytes(proof[:-1])])
    Claim(binding, ECHO.pack(), shown).check(ENGINE, {_CLIENT.public(ENGINE)})
    assert (shown, binding) == (_CLIENT.proof(ENGINE, _BINDING, ECHO.pack()), _BINDING)


@target(MalformedMessage, most_bytes=256)
def tunnel_receipts(given: Input) -> None:
    """Challenges and receipts: no more is unproven than the limit, and each challenge proves once."""
    numbers = count()
    bob = BobChallenges(INTERACTIVE, lambda size: next(numbers).to_bytes(size, "big"))
    most = unproven_bytes([INTERACTIVE]) // INTERACTIVE.chunk_bytes
    asked: list[tuple[bytes, int]] = []
    sent = received = proven = 0
    while not given.is_empty:
        for _ in range(given.one_of([1, 10, 300])):
            if bob.is_held(sent, received):
                break
            if bob.is_due(sent, received):
                asked.append((bob.take(sent), sent))
            sent += 1
        assert sent - proven <= most + received + proven // 2 + 1
        received += given.one_of([0, 1, 20])
        if asked and given.flag():
            index = given.number(0, len(asked) - 1)
            receipt, proven = asked[index]
            bob.arrived(receipt)
            del asked[: index + 1]
            if given.number(0, 15) == 15:
                assert raised(MalformedMessage, bob.arrived, receipt)
                return
        elif given.number(0, 31) == 31:
            receipt = given.take(16)
            assert receipt in dict(asked) or raised(MalformedMessage, bob.arrived, receipt)
            return


class _Tunnel:
    """One end, a hostile other end with the keys, and the user of this end."""

    def __init__(self, end: End, given: Input) -> None:
        self.given = given
        self.now_s = 0.0
        self.end: EstablishedTunnel[Flag] = EstablishedTunnel(
            SEED, INTERACTIVE, end, engine=ENGINE, make_notifier=Flag, limits=_LIMITS, random_bytes=bytes
        )
        self.hand = RawEnd(self.end, End.BOB if end is End.ALICE else End.ALICE)
        self.subs: list[SubStream[Flag]] = []

    @property
    def challenge(self) -> bytes:
        """The last one that this end has sent."""
        sent = [data for kind, _, _, data in self.hand.received if kind == ChunkType.CHALLENGE]
        return sent[-1] if sent else bytes(16)

    def send(self) -> None:
        """One chunk of the other end."""
        given, hand = self.given, self.hand
        kind = given.one_of([*map(int, ChunkType), 0, given.number(0, 255)])
        data = given.one_of(
            [
                b"",
                given.some(20),
                bytes(_DATA_BYTES),
                pack_close(None),
                pack_close(given.one_of(list(ErrorCode))),
                ECHO.pack(),
                pack_credit([(given.number(0, 9), given.number(0, 5_000))]),
                hand.hello,
                bytes([given.number(0, 3)]),
                self.challenge,
            ]
        )
        sub_stream, flags = given.number(0, 9), given.one_of([0, 0, 0, 0, 1, 2])
        if kind == ChunkType.REKEY and not given.number(0, 3):
            hand.rekey()
        elif given.number(0, 31) == 31:
            self.end.received(memoryview(bytearray(given.take(INTERACTIVE.chunk_bytes))))
        else:
            hand.send(kind, data, sub_stream=sub_stream, flags=flags)

    def use(self) -> None:
        """One call of the user or of the node."""
        end, given = self.end, self.given
        match given.number(0, 13):
            case 0:
                self.subs.append(end.accept())
                self.subs[-1].confirm()
            case 1:
                self.subs.append(end.open(ECHO))
            case 2:
                end.outgoing.write(bytes(given.one_of([1, 974, 3_000])))
            case 3:
                end.outgoing.end()
            case 4 if given.number(0, 7) == 0:
                end.close()
            case 5:
                end.incoming.next_message()
                end.incoming.readinto(bytearray(given.one_of([1, 5_000])))
            case 6:
                end.pad()
            case 7:
                self.now_s += given.number(0, 9)
                end.look(self.now_s)
            case 8 if given.number(0, 15) == 0:
                end.give_up(ErrorCode.BUSY)
            case _ if self.subs:
                self.use_sub(given.one_of(self.subs))

    def use_sub(self, sub: SubStream[Flag]) -> None:
        match self.given.number(0, 5):
            case 0:
                sub.write(bytes(self.given.one_of([1, 974, 3_000])))
            case 1:
                sub.readinto(bytearray(self.given.one_of([1, 5_000])))
            case 2:
                sub.close()
            case 3:
                sub.finish()
            case 4:
                sub.stop(ErrorCode.CANCELLED)
            case 5:
                sub.give_up()

    def check(self) -> None:
        end, table = self.end, self.end.table
        assert end.held_bytes <= _MOST_HELD_BYTES
        assert table.own_streams <= 64
        assert len(table.controls) <= 4 * (64 + 4), "one OPEN, OPENED and two CLOSE for each sub-stream"


@target(PeerError, most_bytes=768)
def tunnel_end(given: Input) -> None:
    """Any chunks of the other end and any calls of the user: bounded, and after an error nothing more."""
    run = _Tunnel(given.one_of([End.ALICE, End.BOB]), given)
    if given.number(0, 3):
        run.hand.establish()
    while not given.is_empty:
        try:
            if given.flag():
                run.use()
            else:
                run.send()
            if given.number(0, 3):
                run.hand.take_all()
        except (BlockingIOError, LocalTunnelError):
            pass
        except PeerError as error:
            if isinstance(error, TunnelSilent):
                run.end.fail(error)
            if run.end.failure is not None:
                assert not run.end.next_chunk(memoryview(bytearray(INTERACTIVE.chunk_bytes)), run.now_s)
                assert not run.end.places
                raise
        run.check()
