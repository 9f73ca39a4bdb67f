"""The near end and the far end for TCP programs: proxy handshakes, targets as text, rules of an exit."""

from __future__ import annotations

import ipaddress

from tests.fuzz.target import Input, raised, same_in_pieces, target
from tunnel.errors import BadArgument, BadProxyRequest, ErrorCode, LocalTunnelError, TargetNotAllowed
from tunnel.established import Target, TargetKind
from tunnel.front.handshake import HEAD_BYTES, NEED_DATA, Failed, Handshake, Login, Opened, Request, Step
from tunnel.front.targets import make_target, parse_destination, parse_target
from tunnel.routing.addresses import special_block, unmapped
from tunnel.services.exit_rules import ExitRule, ExitRules, target_host

_LOGIN: Login = (b"user", b"password")
_BEGINNINGS = [
    b"",
    b"\x05\x01\x00\x05\x01\x00\x03",
    b"\x05\x02\x00\x02\x01\x04user\x08password\x05\x01\x00",
    b"\x05\x01\x02\x01",
    b"\x04\x01\x00\x50",
    b"\x04\x01\x00\x50\x00\x00\x00\x01user\x00",
    b"CONNECT ",
    b"CONNECT example.org:443 HTTP/1.1\r\n",
    b"CONNECT example.org:443 HTTP/1.1\r\nProxy-Authorization: Basic ",
    b"CONNECT [::1]:443 HTTP/1.0\r\nProxy-Authorization: Basic dXNlcjpwYXNzd29yZA==\r\n",
    b"GET / HTTP/1.1\r\n",
]


@target(most_bytes=600)
def proxy_handshake(given: Input) -> None:
    """SOCKS5, SOCKS4, SOCKS4a and CONNECT: one outcome for all pieces in which the bytes arrive."""
    has_login, is_opened = given.flag(), given.flag()
    data = given.one_of(_BEGINNINGS) + given.some(300)
    data += b"x" * HEAD_BYTES if given.number(0, 255) == 255 else b""
    data += given.one_of([b"", b"\r\n\r\n", b"\x00\x50"])
    data += given.rest()

    def outcome(pieces: list[bytes]) -> tuple[list[object], object]:
        handshake = Handshake((lambda login: "" if login == _LOGIN else "wrong") if has_login else None)
        events: list[object] = []
        try:
            for piece in [*pieces, b""]:
                _feed(handshake, piece, events, is_opened=is_opened)
        except BadProxyRequest as error:
            assert handshake.step is Step.ENDED
            assert handshake.early_data == b""
            # The text may name what was noticed first; what the client sees first is the same.
            return events, error.reply[:12]
        return events, handshake.early_data

    same_in_pieces(data, outcome)


def _feed(handshake: Handshake, piece: bytes, events: list[object], *, is_opened: bool) -> None:
    handshake.receive_data(piece)
    while handshake.step not in (Step.REQUESTED, Step.ENDED):
        event = handshake.next_event()
        if event is NEED_DATA:
            return
        events.append(event)
        if isinstance(event, Request):
            assert make_target(_host_of(event.target), event.target.port) == event.target
            answer = Opened() if is_opened else Failed(ErrorCode.TARGET_REFUSED, "refused", is_at_target=True)
            events.append(handshake.send(answer))
            assert raised(LocalTunnelError, handshake.next_event)


def _host_of(found: Target) -> str:
    return str(found).rpartition(":")[0].removeprefix("[").removesuffix("]")


@target(BadArgument, most_bytes=300)
def target_text(given: Input) -> None:
    """`HOST:PORT` and `NODE/HOST:PORT`: what is read is shown as text that is read as the same."""
    is_destination = given.flag()
    text = given.rest().decode("utf-8", "surrogateescape")
    if is_destination:
        node, found = parse_destination(text)
        assert node
        assert text.startswith(node)
        if found.kind is TargetKind.SERVICE:
            assert text == f"{node}:{found}"
            return
    else:
        found = parse_target(text)
    assert found.kind is not TargetKind.SERVICE
    assert parse_target(str(found)) == found
    assert Target.unpack(found.pack()) == found


_WORDS = ["allow ", "deny ", "* ", "*.", "example.org ", "10.0.0.0/8 ", "2001:db8::/32 ", "80,443", "1-65535"]


@target(BadArgument, most_bytes=300)
def exit_rule(given: Input) -> None:
    """A rule of any text, and each address of its own range: nothing special without its block."""
    text = "".join(given.one_of(_WORDS) for _ in range(given.number(0, 5)))
    text += given.some(60).decode("utf-8", "surrogateescape")
    rule, rules = ExitRule.parse(text), ExitRules([text])
    assert rule.ports
    addresses = ["127.0.0.1", "169.254.169.254", "::1", "2001:db9::1", "93.184.216.34"]
    host = given.one_of(addresses) if given.flag() else str(ipaddress.ip_address(given.take(4)))
    address = unmapped(host)
    block = special_block(address)
    name = given.one_of([None, "example.org", "a.example.org"])
    port = given.number(1, 65_535)
    is_allowed = rules.allow(name, address, port, block)
    assert not is_allowed or rule.is_allow
    assert not (is_allowed and block is not None) or rule.names(block)
    assert not (is_allowed and name is not None) or rules.may_allow(name, port)


@target(TargetNotAllowed, LocalTunnelError, most_bytes=260)
def exit_target(given: Input) -> None:
    """No spelling of an address reaches the look-up of names, and none leads around the rules."""
    kind = given.one_of([TargetKind.IPV4, TargetKind.IPV6, TargetKind.DOMAIN])
    address = given.rest()
    host = target_host(Target(kind, address, 80))
    if isinstance(host, str):
        assert host == host.lower()
        assert not host.endswith(".")
        assert not host.rpartition(".")[2].isdigit()
        assert raised(ValueError, ipaddress.ip_address, host)
    else:
        assert unmapped(str(host)) == host
