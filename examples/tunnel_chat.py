"""A chat room at one node. Guests connect through established tunnels, so their nodes stay unknown.

The first message of a guest is the name, each further one a line. Each line goes to all other guests.
"""

from contextlib import suppress

from reactor import Channel, ChannelClosed, ChannelFull, Scope, Service, in_scope
from tunnel import InnerService, LocalNetwork
from tunnel.client import Client
from tunnel.services import Query, Reply, Tunnel

LINES_WAITING = 64  # per guest; a slow guest misses lines and does not hold up the others
LONGEST_BYTES = 4096


class Room(InnerService):
    """One object for all guests; a separate service for each."""

    def __init__(self) -> None:
        self._guests: dict[str, Channel[str]] = {}

    def handle(self, query: Query, reply: Reply) -> Service[None]:
        yield from reply.write(b"open a tunnel to this room")

    def tunnel(self, tunnel: Tunnel) -> Service[None]:
        name = ((yield from tunnel.receive(LONGEST_BYTES)) or b"").decode("utf-8", "replace")
        if not name or name in self._guests:
            yield from tunnel.send(b"choose another name: this one is empty or taken")
            return
        lines = self._guests[name] = Channel(LINES_WAITING)
        lines.send_nowait(f"welcome; here are: {', '.join(self._guests)}")
        self._say(f"{name} is here", but=name)

        def visit(scope: Scope) -> Service[None]:
            yield from scope.spawn(self._write(tunnel, lines))
            while (line := (yield from tunnel.receive(LONGEST_BYTES))) is not None:
                self._say(f"{name}: {line.decode('utf-8', 'replace')}", but=name)
            lines.close()  # the writing service sends the rest

        try:
            yield from in_scope(visit)
        finally:
            del self._guests[name]
            self._say(f"{name} has left")

    def _write(self, tunnel: Tunnel, lines: Channel[str]) -> Service[None]:
        while True:
            try:
                line = yield from lines.receive()
            except ChannelClosed:
                return
            yield from tunnel.send(line.encode())

    def _say(self, text: str, but: str = "") -> None:
        for name, lines in self._guests.items():
            if name != but:
                with suppress(ChannelFull, ChannelClosed):  # the guest is slow, or leaving
                    lines.send_nowait(text)


def main() -> None:
    with LocalNetwork(peers=7, service=Room()) as net:
        room = net[6].id
        with Client(net[0]).tunnel(room, hops=3) as alice, Client(net[1]).tunnel(room, hops=3) as bob:

            def hear(guest: str) -> None:
                line = {"Alice": alice, "Bob": bob}[guest].receive(timeout_s=30)
                print(f"{guest} reads:  {(line or b'nothing more').decode()}")

            alice.send(b"Alice")
            hear("Alice")
            bob.send(b"Bob")
            hear("Bob")
            hear("Alice")
            alice.send("good evening — where are you?".encode())
            hear("Bob")
            bob.send(b"not even this room knows")
            hear("Alice")
            bob.close(timeout_s=30)
            hear("Alice")


if __name__ == "__main__":
    main()
