"""A chat room on the reactor alone: one service per guest, one channel per guest.

`python chat.py` plays a short scene with three guests over real TCP. `python chat.py PORT` opens the room to
guests who connect with `nc 127.0.0.1 PORT` (the first line is the name); Ctrl-C closes it.

A slow guest does not hold up the others: the lines for each guest wait in a bounded channel. A guest whose
channel is full is disconnected.
"""

import sys
from typing import NamedTuple

from reactor import (
    Channel,
    ChannelClosed,
    ChannelFull,
    Reactor,
    ReactorError,
    ReadYield,
    Scope,
    Service,
    SocketStream,
    TcpListener,
    WriteYield,
    connect_tcp,
    timeout_after,
)

LINES_WAITING = 64  # per guest
LONGEST_LINE = 4096  # bytes; a guest who sends a longer line is disconnected
NAME_WITHIN_S = 30.0


class Lines:
    """The lines of a stream."""

    def __init__(self, stream: SocketStream) -> None:
        self._reader = ReadYield(stream)
        self._held = b""

    def next(self) -> Service[str]:
        """The next line without its line break; "" at the end of the stream, or if the line is too long."""
        while b"\n" not in self._held:
            more = yield from self._reader.read()
            if not more or len(self._held) > LONGEST_LINE:
                return ""
            self._held += more
        line, self._held = self._held.split(b"\n", 1)
        return line.decode("utf-8", "replace").strip() or " "


class Guest(NamedTuple):
    lines: Channel[str]
    visit: Scope


class Room:
    """The present guests by name, and a way to send them a line."""

    def __init__(self) -> None:
        self._guests: dict[str, Guest] = {}

    def say(self, text: str, but: str = "") -> None:
        for name, guest in list(self._guests.items()):
            if name == but:
                continue
            try:
                guest.lines.send_nowait(text)
            except (ChannelFull, ChannelClosed):
                guest.visit.cancel()  # the guest does not read, or is leaving

    def host(self, stream: SocketStream) -> Service[None]:
        """One guest's visit: one service reads, one writes, and they end together."""
        with stream:
            lines = Lines(stream)
            name = (yield from timeout_after(NAME_WITHIN_S, lines.next())).strip()
            if not name or name in self._guests:
                yield from WriteYield(stream).write_all(b"choose another name: this one is empty or taken\n")
                return
            guest = self._guests[name] = Guest(Channel(LINES_WAITING), Scope(name))
            try:
                self.say(f"* {name} is here", but=name)
                guest.lines.send_nowait(f"* welcome, {name}; here are: {', '.join(self._guests)}")
                yield from guest.visit.spawn(write_lines(stream, guest.lines))
                yield from guest.visit.spawn(self._listen(name, lines))
                yield from guest.visit.join()
            finally:
                yield from guest.visit.close()
                del self._guests[name]
                self.say(f"* {name} has left")

    def _listen(self, name: str, lines: Lines) -> Service[None]:
        while line := (yield from lines.next()):
            self.say(f"{name}: {line}", but=name)
        self._guests[name].lines.close()  # the writing service sends the rest, then ends


def write_lines(stream: SocketStream, lines: Channel[str]) -> Service[None]:
    writer = WriteYield(stream)
    while True:
        try:
            line = yield from lines.receive()
        except ChannelClosed:
            stream.shutdown_write()
            return
        yield from writer.write_all(line.encode() + b"\n")


def open_room(listener: TcpListener) -> Service[None]:
    room, guests = Room(), Scope("guests", fail_together=False)
    try:
        while True:
            stream = yield from listener.accept()
            yield from guests.spawn(visit(room, stream))
    finally:
        yield from guests.close()


def visit(room: Room, stream: SocketStream) -> Service[None]:
    try:
        yield from room.host(stream)
    except ReactorError as error:  # a broken connection, or no name in time: the others stay
        print(f"a visit ended: {error}", file=sys.stderr)


def enter(port: int, name: str) -> Service[tuple[SocketStream, Lines]]:
    stream = yield from connect_tcp("127.0.0.1", port)
    yield from WriteYield(stream).write_all(name.encode() + b"\n")
    heard = Lines(stream)
    print(f"{name} reads:  {(yield from heard.next())}")
    return stream, heard


def scene(port: int) -> Service[None]:
    """Three guests. Each step waits until its line has arrived, so that the order is always the same."""
    alice, alice_hears = yield from enter(port, "Alice")
    bob, bob_hears = yield from enter(port, "Bob")
    carol, carol_hears = yield from enter(port, "Carol")
    yield from WriteYield(bob).write_all(b"good evening\n")
    print(f"Carol reads:  {(yield from carol_hears.next())}")
    yield from WriteYield(carol).write_all("good evening, Bob — how late is it?\n".encode())
    for _ in range(2):  # the news of Carol, and her question
        print(f"Bob reads:    {(yield from bob_hears.next())}")
    bob.shutdown_write()
    while not (line := (yield from alice_hears.next())).endswith("has left"):
        pass
    print(f"Alice reads:  {line}")
    for stream in alice, bob, carol:
        stream.close()


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with Reactor() as reactor, TcpListener("127.0.0.1", port) as listener:
        room = open_room(listener)
        if port:
            try:
                reactor.run(room)
            except KeyboardInterrupt:
                print("the room is closed")
        else:
            reactor.spawn(room)
            reactor.run(scene(listener.address[1]))


if __name__ == "__main__":
    main()
