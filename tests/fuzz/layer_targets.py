"""The layers of `readwrite_comp` as readers of any bytes: windows, marks, ciphers, stacks of them."""

from __future__ import annotations

from readwrite_comp.testing import HostileReader, read_message
from readwrite_comp.testing.streams import length_for
from tests.fuzz.target import Input, target
from tests.readwrite_comp.pairs import LAYERS, stack_of, wire_of

_NAMES = sorted(LAYERS)
_SPLITS = ((1 << 16,), (1,), (3, 50))


@target(most_bytes=600)
def layers(given: Input) -> None:
    """What a layer or a stack reads from any bytes: the same in all pieces, and its documented error."""
    names = [given.one_of(_NAMES) for _ in range(given.number(1, 3))]
    make = stack_of(names)
    writer, reader = make()
    length = length_for(reader, given.number(0, 300))
    if given.flag():  # a message, with one byte changed
        place, change = given.number(0, 255), given.number(0, 255)
        data = bytearray(wire_of(writer, given.rest()))
        if data:
            data[place * len(data) // 256] ^= change
    else:
        data = bytearray(given.rest())
    outcomes = []
    for splits in _SPLITS:
        script = () if splits == _SPLITS[0] else (0, 1, 2, 0, 7) * 20
        stream = HostileReader(bytes(data), script)
        found = read_message(make()[1], stream, length, splits, most_bytes=1 << 20)
        outcomes.append((found.content, repr(found.error)))
    assert outcomes[0] == outcomes[1] == outcomes[2], names
