"""SOCKS5, SOCKS4a and CONNECT: each request, reply and refusal; any split and any change of the bytes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tunnel.helpers import cut_in_pieces
from tunnel.errors import BadProxyRequest, ErrorCode, LocalTunnelError
from tunnel.established import Target, TargetKind
from tunnel.front.handshake import (
    HEAD_BYTES,
    NEED_DATA,
    STEPS,
    Answer,
    Event,
    Failed,
    Handshake,
    Login,
    Opened,
    ProxyProtocol,
    Request,
    Step,
)

NAME = Target(TargetKind.DOMAIN, b"site.test", 443)
IPV4 = Target(TargetKind.IPV4, bytes((192, 0, 2, 7)), 80)
IPV6 = Target(TargetKind.IPV6, bytes(15) + b"\x01", 65_535)
LOGIN = (b"alice", b"s:cret")
BASIC = b"Basic " + base64.b64encode(b"alice:s:cret")

NO_AUTH, OFFER_BOTH = b"\x05\x01\x00", b"\x05\x02\x00\x02"
USER_PASSWORD = b"\x05\x01\x02\x01\x05alice\x06s:cret"
TO_NAME = b"\x05\x01\x00\x03\x09site.test\x01\xbb"
TO_IPV4 = b"\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50"
TO_IPV6 = b"\x05\x01\x00\x04" + bytes(15) + b"\x01\xff\xff"
CONNECT = b"CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443\r\nUser-Agent: x/1\r\n\r\n"

WHOLE = {
    "socks5 name": (NO_AUTH + TO_NAME, NAME, None),
    "socks5 ipv4": (NO_AUTH + TO_IPV4, IPV4, None),
    "socks5 ipv6": (NO_AUTH + TO_IPV6, IPV6, None),
    "socks5 login": (USER_PASSWORD + TO_NAME, NAME, LOGIN),
    "socks5 empty password": (b"\x05\x01\x02\x01\x01u\x00" + TO_NAME, NAME, (b"u", b"")),
    "socks5 ipv4 as a name": (NO_AUTH + b"\x05\x01\x00\x03\x09192.0.2.7\x00\x50", IPV4, None),
    "socks5 ipv6 as a name": (NO_AUTH + b"\x05\x01\x00\x03\x03::1\xff\xff", IPV6, None),
    "socks4": (b"\x04\x01\x00\x50\xc0\x00\x02\x07\x00", IPV4, None),
    "socks4 user": (b"\x04\x01\x00\x50\xc0\x00\x02\x07me\x00", IPV4, (b"me", b"")),
    "socks4a": (b"\x04\x01\x01\xbb\x00\x00\x00\x01\x00site.test\x00", NAME, None),
    "socks4a user": (b"\x04\x01\x01\xbb\x00\x00\x00\xffme\x00site.test\x00", NAME, (b"me", b"")),
    "connect": (CONNECT, NAME, None),
    "connect 1.0": (b"CONNECT 192.0.2.7:80 HTTP/1.0\r\n\r\n", IPV4, None),
    "connect ipv6": (b"CONNECT [::1]:65535 HTTP/1.1\r\nhost:x\r\n\r\n", IPV6, None),
    "connect login": (
        b"CONNECT site.test:443 HTTP/1.1\r\nProxy-Authorization: " + BASIC + b"\r\n\r\n",
        NAME,
        LOGIN,
    ),
}


def feed(pieces: list[bytes], handshake: Handshake) -> list[Event]:
    """The events of a client's bytes, its answers joined."""
    events: list[Event] = []
    for piece in pieces:
        handshake.receive_data(piece)
        while handshake.step not in (Step.REQUESTED, Step.ENDED):
            event = handshake.next_event()
            if event is NEED_DATA:
                break
            if isinstance(event, Answer) and events and isinstance(events[-1], Answer):
                event = Answer(events.pop().data + event.data)  # type: ignore[union-attr]
            events.append(event)
    return events


def only_alice(login: Login) -> str:
    return "" if login == LOGIN else "wrong user or password"


def refused(data: bytes, handshake: Handshake | None = None) -> BadProxyRequest:
    with pytest.raises(BadProxyRequest) as caught:
        feed([data, b""], handshake or Handshake())
    return caught.value


def requested(data: bytes) -> Handshake:
    handshake = Handshake()
    assert isinstance(feed([data], handshake)[-1], Request)
    return handshake


# --- requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", WHOLE)
def test_a_request(case: str) -> None:
    data, target, login = WHOLE[case]
    handshake = Handshake()
    *answers, request = feed([data], handshake)
    assert isinstance(request, Request)
    assert (request.target, request.login) == (target, login)
    assert request.protocol is handshake.protocol
    expected = {"socks5 login": b"\x05\x02\x01\x00", "socks5 empty password": b"\x05\x02\x01\x00"}
    socks5 = expected.get(case, b"\x05\x00") if request.protocol is ProxyProtocol.SOCKS5 else b""
    assert b"".join(answer.data for answer in answers if isinstance(answer, Answer)) == socks5
    assert "s:cret" not in repr(request)


@given(
    st.sampled_from(list(WHOLE.values())),
    st.binary(max_size=40),
    st.lists(st.integers(1, 20), min_size=1, max_size=20),
)
def test_any_split_gives_the_same_events_and_early_data(
    case: tuple[bytes, Target, Login | None], early: bytes, sizes: list[int]
) -> None:
    whole = Handshake()
    expected = feed([case[0] + early], whole)
    handshake = Handshake()
    assert feed(cut_in_pieces(case[0] + early, sizes), handshake) == expected
    assert handshake.early_data == whole.early_data == early


@pytest.mark.parametrize("case", WHOLE)
def test_byte_by_byte_and_every_truncation(case: str) -> None:
    data, target, _ = WHOLE[case]
    for length in range(len(data)):
        handshake = Handshake()
        events = feed([data[at : at + 1] for at in range(length)], handshake)
        assert not any(isinstance(event, Request) for event in events)
        assert handshake.early_data == b""
        handshake.receive_data(b"")
        with pytest.raises(BadProxyRequest, match="the client ended the connection"):
            handshake.next_event()
    request = feed([data[at : at + 1] for at in range(len(data))], Handshake())[-1]
    assert isinstance(request, Request)
    assert request.target == target


@given(st.sampled_from(list(WHOLE.values())), st.data())
@settings(max_examples=500)
def test_any_changed_byte_is_a_request_or_the_documented_refusal(
    case: tuple[bytes, Target, Login | None], data: st.DataObject
) -> None:
    mutated = bytearray(case[0])
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    _request_or_refusal(bytes(mutated))


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=80).map(lambda tail: b"CONNECT " + tail)))
@settings(max_examples=500)
def test_any_bytes_are_a_request_or_the_documented_refusal(data: bytes) -> None:
    _request_or_refusal(data)


def _request_or_refusal(data: bytes) -> None:
    handshake = Handshake()
    try:
        events = feed([data, b""], handshake)
        assert isinstance(events[-1], Request)
    except BadProxyRequest as error:
        reply = error.reply
        assert handshake.step is Step.ENDED
        assert handshake.early_data == b""
        assert reply[:1] in (b"", b"\x05", b"\x00", b"\x01", b"H")
        with pytest.raises(LocalTunnelError):
            handshake.next_event()


def test_a_client_that_offers_both_methods_logs_in() -> None:
    assert feed([OFFER_BOTH], Handshake()) == [Answer(b"\x05\x02")]


def test_the_steps_reach_the_end_from_everywhere() -> None:
    assert STEPS.keys() == set(Step)
    assert all(Step.ENDED in after for step, after in STEPS.items() if step is not Step.ENDED)


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reply", "text"),
    [
        (b"\x05\x00", b"\x05\xff", "none of the methods"),
        (b"\x05\x01\x01", b"\x05\xff", "none of the methods"),
        (b"\x05\x01\x02\x02", b"\x01\x01", "version 2"),
        (NO_AUTH + b"\x04\x01\x00\x01", b"\x05\x01\x00\x01" + bytes(6), "version 4"),
        (NO_AUTH + b"\x05\x02\x00\x01", b"\x05\x07\x00\x01" + bytes(6), "command 2"),
        (NO_AUTH + b"\x05\x03\x00\x01", b"\x05\x07\x00\x01" + bytes(6), "command 3"),
        (NO_AUTH + b"\x05\xf0\x00\x01", b"\x05\x07\x00\x01" + bytes(6), "command 240"),  # Tor's RESOLVE
        (NO_AUTH + b"\x05\x01\x01\x01", b"\x05\x01\x00\x01" + bytes(6), "reserved"),
        (NO_AUTH + b"\x05\x01\x00\x02", b"\x05\x08\x00\x01" + bytes(6), "address type 2"),
        (NO_AUTH + b"\x05\x01\x00\x03\x00\x00\x50", b"\x05\x01\x00\x01" + bytes(6), "empty"),
        (NO_AUTH + b"\x05\x01\x00\x03\x02a\x00\x00\x50", b"\x05\x01\x00\x01" + bytes(6), "letters"),
        (NO_AUTH + b"\x05\x01\x00\x03\x02\xc3\xa9\x00\x50", b"\x05\x01\x00\x01" + bytes(6), "xn--"),
        (NO_AUTH + b"\x05\x01\x00\x03\x05127.1\x00\x50", b"\x05\x01\x00\x01" + bytes(6), "four decimal"),
        (NO_AUTH + b"\x05\x01\x00\x03\xff" + b"a" * 257, b"\x05\x01\x00\x01" + bytes(6), "255 characters"),
        (NO_AUTH + b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00", b"\x05\x01\x00\x01" + bytes(6), "port 0"),
        (b"\x04\x02", b"\x00\x5b" + bytes(6), "command 2"),
        (b"\x04\x01\x00\x00\x7f\x00\x00\x01\x00", b"\x00\x5b" + bytes(6), "port 0"),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01" + b"u" * 256, b"\x00\x5b" + bytes(6), "user id"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00" + b"u" * 256, b"\x00\x5b" + bytes(6), "name"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00", b"\x00\x5b" + bytes(6), "empty"),
        (b"\x00", b"", "first byte is 0"),
        (b"\x06", b"", "first byte is 6"),
        (b"\x16\x03\x01", b"", "TLS"),
    ],
)
def test_a_refused_socks_client(data: bytes, reply: bytes, text: str) -> None:
    error = refused(data)
    assert error.reply == reply
    assert text in str(error)


@pytest.mark.parametrize(
    ("head", "status", "text"),
    [
        (b"GET / HTTP/1.1\r\n", 405, "SOCKS and CONNECT proxy"),
        (b"GET http://site.test/ HTTP/1.1\r\n", 405, "socks5h"),
        (b"POST / HTTP/1.1\r\n", 405, "SOCKS and CONNECT proxy"),
        (b"connect site.test:443 HTTP/1.1\r\n", 405, "CONNECT HOST:PORT"),
        (b"PRI * HTTP/2.0\r\n", 405, "CONNECT HOST:PORT"),
        (b"CONNECT site.test:443 HTTP/2.0\r\n", 505, "1.0 or 1.1"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 400, "CONNECT HOST:PORT"),
        (b"CONNECT  site.test:443 HTTP/1.1\r\n", 400, "CONNECT HOST:PORT"),
        (b"CONNECT site.test:443\r\n", 400, "CONNECT HOST:PORT"),
        (b"CONNECT site.test:443 HTTP/1.1\n\n\r\n", 400, "CONNECT HOST:PORT"),
        (b"CONNECT site.t\0st:443 HTTP/1.1\r\n", 400, "CONNECT HOST:PORT"),
        (b"CONNECT site.test HTTP/1.1\r\n", 400, "no port"),
        (b"CONNECT u:p@site.test:443 HTTP/1.1\r\n", 400, "brackets"),
        (b"CONNECT http://site.test:443 HTTP/1.1\r\n", 400, "brackets"),
        (b"CONNECT 0x7f.1:443 HTTP/1.1\r\n", 400, "four decimal"),
        (b"CONNECT a:443 HTTP/1.1\r\nno colon\r\n\r\n", 400, "malformed header"),
        (b"CONNECT a:443 HTTP/1.1\r\nname : x\r\n\r\n", 400, "malformed header"),
        (b"CONNECT a:443 HTTP/1.1\r\nname: x\r\n folded\r\n\r\n", 400, "malformed header"),
        (b"CONNECT a:443 HTTP/1.1\r\nname: a\nb: c\r\n\r\n", 400, "malformed header"),
        (b"CONNECT a:443 HTTP/1.1\r\nname: \0\r\n\r\n", 400, "malformed header"),
        (
            b"CONNECT a:443 HTTP/1.1\r\n" + 2 * (b"Proxy-Authorization: " + BASIC + b"\r\n") + b"\r\n",
            400,
            "more than one",
        ),
        (b"CONNECT a:443 HTTP/1.1\r\nProxy-Authorization: Bearer x\r\n\r\n", 407, "Basic"),
        (b"CONNECT a:443 HTTP/1.1\r\nProxy-Authorization: Basic !!!\r\n\r\n", 407, "Basic"),
        (b"CONNECT a:443 HTTP/1.1\r\nProxy-Authorization: Basic YWxpY2U=\r\n\r\n", 407, "Basic"),
        (b"CONNECT " + b"a" * 100_000, 431, "longer than"),
        (b"CONNECT a:443 HTTP/1.1\r\nname: " + b"x" * 100_000, 431, "longer than"),
        (b"CONNECT a:443 HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, 431, "longer than"),
        (b"CONNECT a:443 HT", 400, "ended the connection"),
        (b"CONNECT a:443 HTTP/1.1\n\n", 400, "CR LF"),
        (b"CONNECT a:443 HTTP/1.1\r\nname: x\n\n", 400, "CR LF"),
    ],
)
def test_a_refused_http_client(head: bytes, status: int, text: str) -> None:
    error = refused(head)
    fields, _, body = error.reply.partition(b"\r\n\r\n")
    assert fields.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"\r\nContent-Length: {len(body)}\r\nConnection: close".encode() in fields
    assert text in str(error)
    assert text in body.decode()
    assert (b"\r\nAllow: CONNECT" in fields) == (status == 405)
    assert (b"\r\nProxy-Authenticate: Basic " in fields) == (status == 407)


def test_a_head_of_the_longest_length_is_accepted_and_a_longer_head_refused() -> None:
    start, end = b"CONNECT site.test:443 HTTP/1.1\r\nname: ", b"\r\n\r\n"
    longest = start + b"x" * (HEAD_BYTES - len(start) - len(end)) + end
    assert isinstance(feed([longest + b"early"], Handshake())[-1], Request)
    assert "longer than" in str(refused(longest[:-4] + b"x" + end))


def test_a_long_head_is_refused_before_it_has_arrived() -> None:
    handshake = Handshake()
    with pytest.raises(BadProxyRequest):
        feed([b"CONNECT " + b"a" * (HEAD_BYTES - 8)], handshake)


def test_bytes_after_the_longest_head_do_not_change_the_refusal() -> None:
    head = b"CONNECT " + b"a" * HEAD_BYTES
    assert refused(head + b"\n").reply == refused(head).reply


@pytest.mark.parametrize("line", [b"CONNECT a:443 HTTP/1.1\n", b"CONNECT a:443 HTTP/1.1\r\nname: x\n"])
def test_lines_without_cr_are_refused_at_once(line: bytes) -> None:
    """Their client waits for a reply, and not for a time limit."""
    handshake = Handshake()
    handshake.receive_data(line)
    with pytest.raises(BadProxyRequest, match="CR LF"):
        handshake.next_event()


# --- logins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["socks5 login", "connect login"])
def test_the_right_login(case: str) -> None:
    request = feed([WHOLE[case][0]], Handshake(only_alice))[-1]
    assert isinstance(request, Request)
    assert request.login == LOGIN


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (NO_AUTH, b"\x05\xff"),
        (b"\x05\x01\x02\x01\x05alice\x01x", b"\x01\x01"),
        (b"\x05\x01\x02\x01\x00\x00", b"\x01\x01"),
        (WHOLE["socks4 user"][0], b"\x00\x5b" + bytes(6)),
        (CONNECT, b"HTTP/1.1 407 "),
        (CONNECT.replace(b"User-Agent: x/1", b"Proxy-Authorization: Basic YTpi"), b"HTTP/1.1 407 "),
    ],
    ids=["no auth", "wrong password", "empty", "socks4", "connect without", "connect wrong"],
)
def test_a_missing_or_wrong_login_is_refused(data: bytes, reply: bytes) -> None:
    error = refused(data, Handshake(only_alice))
    assert error.reply.startswith(reply)
    assert "alice" not in str(error)


# --- replies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "is_at_target", "socks5", "status"),
    [
        (ErrorCode.TARGET_NOT_ALLOWED, True, 2, 403),
        (ErrorCode.TARGET_UNREACHABLE, True, 4, 502),
        (ErrorCode.TARGET_REFUSED, True, 5, 502),
        (ErrorCode.TIMEOUT, True, 6, 504),
        (ErrorCode.BUSY, True, 1, 502),
        (ErrorCode.TIMEOUT, False, 1, 504),
        (ErrorCode.NEXT_REFUSED, False, 1, 502),
    ],
)
def test_the_reply_to_a_failure(code: ErrorCode, is_at_target: bool, socks5: int, status: int) -> None:
    failed = Failed(
        code, "it\r\nfailed: bücher", hops=(b"\xab" * 32, b"\xcd" * 32), is_at_target=is_at_target
    )
    assert requested(NO_AUTH + TO_NAME).send(failed) == bytes((5, socks5, 0, 1)) + bytes(6)
    assert requested(WHOLE["socks4a"][0]).send(failed) == b"\x00\x5b" + bytes(6)
    head, _, body = requested(CONNECT).send(failed).partition(b"\r\n\r\n")
    lines = head.decode("ascii").split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {status} ")
    assert f"Mtun-Error: {code.name}" in lines
    assert "Mtun-Hop: abababab, cdcdcdcd" in lines
    assert body.decode() == "it failed: bücher\n"


def test_the_reply_to_an_open_connection() -> None:
    assert requested(NO_AUTH + TO_NAME).send(Opened()) == b"\x05\x00\x00\x01" + bytes(6)
    assert requested(WHOLE["socks4a"][0]).send(Opened()) == b"\x00\x5a" + bytes(6)
    assert requested(CONNECT).send(Opened()) == b"HTTP/1.1 200 Connection established\r\n\r\n"


def test_one_reply_to_one_request() -> None:
    with pytest.raises(LocalTunnelError, match="no request"):
        Handshake().send(Opened())
    handshake = requested(CONNECT)
    handshake.send(Opened())
    with pytest.raises(LocalTunnelError, match="no request"):
        handshake.send(Opened())
