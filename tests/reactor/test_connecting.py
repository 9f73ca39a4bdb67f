"""Connecting to names and invalid addresses: the addresses of a name race, invalid ones raise errors."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reactor.io.connecting as connecting
from reactor import (
    ConnectError,
    CurrentTime,
    Reactor,
    Service,
    Sleep,
    Spawn,
    TcpListener,
    TimedOut,
    connect_tcp,
)
from reactor.core.timers import FakeClock
from reactor.io.connecting import connect_addresses
from tests.reactor.helpers import assert_clean, passes, run

ENTRY = (socket.AF_INET, socket.SOCK_STREAM, 6, "")


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """The address of a listener whose backlog is full: the kernel answers no further connection."""
    with TcpListener("127.0.0.1", 0, backlog=0) as listener:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.address)
        yield listener.address[:2]
        for filler in fillers:
            filler.close()


@pytest.fixture
def refusing() -> Iterator[tuple[str, int]]:
    """An address without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


@pytest.fixture
def listener() -> Iterator[TcpListener]:
    with TcpListener("127.0.0.1", 0) as listener:
        yield listener


def name(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[Any, ...]) -> str:
    """A name with these addresses."""
    found = [(*ENTRY, address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    return "several.example"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_silent_first_address_costs_a_quarter_of_a_second(
    fake: Reactor, listener: TcpListener, silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = name(monkeypatch, silent, listener.address)
    before = descriptors()

    def service() -> Service[float]:
        began_s: float = yield CurrentTime()
        stream = yield from connect_tcp(host, 1, timeout_s=6)
        assert stream.peername == listener.address
        stream.close()
        now_s: float = yield CurrentTime()
        return now_s - began_s

    assert run(fake, service()) == pytest.approx(0.25)
    assert_clean(fake)
    assert descriptors() == before


def test_when_all_addresses_fail_each_is_named(
    fake: Reactor, refusing: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = name(monkeypatch, refusing, ("127.0.0.1", refusing[1]), ("127.0.0.2", refusing[1]))

    def service() -> Service[ConnectError]:
        with pytest.raises(ConnectError) as caught:
            yield from connect_tcp(host, 7)
        return caught.value

    error = run(fake, service())
    assert len(error.errors) == 2  # one address given twice is tried once
    assert all(isinstance(failure, ConnectionRefusedError) for failure in error.errors)
    assert all(part in str(error) for part in ("several.example:7", "127.0.0.1: ", "127.0.0.2: "))
    assert_clean(fake)


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
def test_giving_up_closes_all_attempts(
    fake: Reactor, silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    # Two entries that differ, of one address: both are silent.
    found = [(*ENTRY, silent), (socket.AF_INET, socket.SOCK_STREAM, 0, "", silent)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    before = descriptors()

    def service() -> Service[None]:
        connecting = yield Spawn(
            connect_tcp("silent.example", 1, timeout_s=2 if how == "timed out" else None)
        )
        yield Sleep(1)
        assert descriptors() > before + 1
        if how == "cancelled":
            connecting.cancel()
            yield from passes(9)
        else:
            yield Sleep(2)
            assert isinstance(connecting.error, TimedOut)
        assert connecting.is_finished

    run(fake, service())
    assert_clean(fake)
    assert descriptors() == before


class Stream:
    """The stream of a simulated connection."""

    is_open = True

    def close(self) -> None:
        self.is_open = False


OUTCOMES = st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 2.0]), st.booleans())


@given(plan=st.lists(OUTCOMES, min_size=2, max_size=6), limit_s=st.sampled_from([None, 0.2, 0.5, 1.0]))
def test_the_first_that_answers_is_taken_and_all_others_are_closed(
    plan: list[tuple[float, bool]], limit_s: float | None
) -> None:
    began: dict[int, float] = {}
    made: list[Stream] = []

    def connect_address(family: int, kind: int, protocol: int, address: Any) -> Service[Any]:
        number = address[1]
        began[number] = yield CurrentTime()
        delay_s, answers = plan[number]
        yield Sleep(delay_s)
        if not answers:
            raise ConnectionRefusedError(111, "refused")
        made.append(Stream())
        return made[-1]

    def look_up(*args: Any, **kwargs: Any) -> list[Any]:
        return [(*ENTRY, ("192.0.2.1", number)) for number in range(len(plan))]

    def service() -> Service[tuple[Any, float]]:
        start_s: float = yield CurrentTime()
        try:
            outcome: Any = yield from connect_tcp("made.up", 1, timeout_s=limit_s)
        except (ConnectError, TimedOut) as error:
            outcome = error
        now_s: float = yield CurrentTime()
        return outcome, now_s - start_s

    with pytest.MonkeyPatch.context() as patch, Reactor(clock=FakeClock()) as reactor:
        patch.setattr(connecting, "connect_address", connect_address)
        patch.setattr(socket, "getaddrinfo", look_up)
        outcome, took_s = run(reactor, service())
        assert_clean(reactor)
    starts = [began[number] for number in sorted(began)]
    assert sorted(began) == list(range(len(began)))
    assert all(later - earlier <= 0.25 + 1e-9 for earlier, later in pairwise(starts))
    assert [stream.is_open for stream in made] == [stream is outcome for stream in made]
    answered_s = [began[number] - starts[0] + plan[number][0] for number in began if plan[number][1]]
    if isinstance(outcome, Stream):
        assert took_s == pytest.approx(min(answered_s))
    elif isinstance(outcome, TimedOut):
        assert took_s == pytest.approx(limit_s)
        assert min(answered_s, default=9.0) >= took_s - 1e-9
    else:
        assert len(outcome.errors) == len(plan)
        assert not answered_s


def test_addresses_that_are_given_race_and_nothing_is_looked_up(
    fake: Reactor, listener: TcpListener, silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: asked.append(args))
    tried: list[Any] = []
    real = connecting.connect_address

    def connect_address(family: int, kind: int, protocol: int, address: Any) -> Service[Any]:
        tried.append((family, address))
        return real(socket.AF_INET, kind, protocol, places[address[0]])

    places = {"2001:db8::1": silent, "192.0.2.7": listener.address, "192.0.2.8": silent}
    monkeypatch.setattr(connecting, "connect_address", connect_address)

    def service() -> Service[float]:
        began_s: float = yield CurrentTime()
        stream = yield from connect_addresses([*places], 80, timeout_s=6)
        assert stream.peername == listener.address
        stream.close()
        now_s: float = yield CurrentTime()
        return now_s - began_s

    assert run(fake, service()) == pytest.approx(0.25)
    assert tried == [(socket.AF_INET6, ("2001:db8::1", 80)), (socket.AF_INET, ("192.0.2.7", 80))]
    assert asked == []
    assert_clean(fake)


@pytest.mark.parametrize(
    ("hosts", "port"),
    [
        ([], 80),
        (["localhost"], 80),
        (["127.0.0.1", "127.1"], 80),
        (["0x7f000001"], 80),
        (["127.0.0.1\0"], 80),
        (["127.0.0.1"], 0),
        (["127.0.0.1"], 65_536),
    ],
)
def test_addresses_must_be_numeric_and_the_port_in_range(hosts: list[str], port: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - also those of `ipaddress`
        connect_addresses(hosts, port)


FAMILIES = st.lists(st.tuples(st.sampled_from([socket.AF_INET6, socket.AF_INET]), st.integers(0, 5)))


@given(families=FAMILIES)
def test_families_take_turns_each_in_the_systems_order(
    families: list[tuple[int, int]],
) -> None:
    found = [(family, socket.SOCK_STREAM, 6, "", (f"address {number}", 1)) for family, number in families]
    ordered = connecting.in_turn(found)
    assert sorted(ordered) == sorted(set(found))
    if found:
        assert ordered[0] == found[0]
    for family in {entry[0] for entry in found}:
        own = [entry for entry in ordered if entry[0] == family]
        assert own == list(dict.fromkeys(entry for entry in found if entry[0] == family))
        # The families alternate until one of them has no address left.
    fewest = min((sum(entry[0] == family for entry in ordered) for family, *_ in ordered), default=0)
    kinds = [entry[0] for entry in ordered[: 2 * fewest]]
    if len({entry[0] for entry in ordered}) == 2:
        assert all(left != right for left, right in pairwise(kinds))


BAD_PLACES = {
    "a port beyond 65535": ("127.0.0.1", 65536 + 80),
    "a port beyond any number of the system's": ("127.0.0.1", 2**70),
    "a negative port": ("localhost", -65536 + 80),
    "port 0": ("127.0.0.1", 0),
    "an empty label": ("a..b", 80),
    "a first label that is empty": (".example.com", 80),
    "a label of 64 bytes": ("x" * 64 + ".org", 80),
    "half a character": ("\ud800", 80),
    "a NUL": ("local\0host", 80),
    "no host": ("", 80),
}


@pytest.mark.parametrize(("host", "port"), BAD_PLACES.values(), ids=BAD_PLACES.keys())
def test_a_place_that_cannot_be_is_a_connect_error(host: str, port: int) -> None:
    def service() -> Service[ConnectError]:
        with pytest.raises(ConnectError) as caught:
            yield from connect_tcp(host, port, timeout_s=30)
        return caught.value

    with Reactor() as reactor:
        error = run(reactor, service())
    assert (error.host, error.port) == (host, port)
    assert str(error).isprintable()


@pytest.mark.parametrize("port", ["80", 80.0, True, None, b"80"])
def test_a_port_that_is_not_a_whole_number_is_refused_at_the_call(port: Any) -> None:
    with pytest.raises(TypeError, match="port: expected a whole number"):
        connect_tcp("127.0.0.1", port)
    with pytest.raises(TypeError, match="port: expected a whole number"):
        TcpListener("127.0.0.1", port)


@pytest.mark.parametrize("host", [None, b"127.0.0.1", 2130706433, ("127.0.0.1",)])
def test_a_host_that_is_not_text_is_refused_at_the_call(host: Any) -> None:
    with pytest.raises(TypeError, match="host: expected a name or an address"):
        connect_tcp(host, 80)
    with pytest.raises(TypeError, match="host: expected a name or an address"):
        TcpListener(host, 0)


@pytest.mark.parametrize("key", sorted(set(BAD_PLACES) - {"port 0"}))
def test_a_place_that_cannot_be_listened_at_is_a_value_error(key: str) -> None:
    with pytest.raises(ValueError, match="cannot listen: "):
        TcpListener(*BAD_PLACES[key])
