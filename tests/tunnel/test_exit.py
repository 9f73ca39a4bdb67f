"""The exit with fake name servers and connections: the dialled addresses, and the codes of refusals."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tunnel.services.exit as exit_module
from reactor import ConnectError, Reactor, Service, Signal, Sleep, Spawn
from reactor.core.timers import FakeClock
from tests.reactor.helpers import passes, run
from tests.support.network import PATIENCE_S
from tests.tunnel.test_exit_rules import SPECIAL, WIDE
from tunnel.errors import BadArgument, ErrorCode, PeerError
from tunnel.established import Target, TargetKind
from tunnel.identity.descriptor import Address
from tunnel.routing.addresses import is_public
from tunnel.services import Exit, ExitSettings
from tunnel.services.exit import TUNNEL_LOOK_UPS

PUBLIC, PUBLIC6 = "93.184.216.34", "2606:2800:220:1::1"


class Stream:
    """What an exit sees of a sub-stream before it has connected."""

    def __init__(self, target: Target, tunnel: bytes) -> None:
        self.target = target
        self.binding = tunnel


class Dialled:
    """Stands in for the network: records what is dialled, and fails with `number`."""

    def __init__(self, number: int = errno.ECONNREFUSED) -> None:
        self.number = number
        self.hosts: list[str] = []

    def connect_addresses(self, hosts: Sequence[str], port: int) -> Service[Any]:
        self.hosts += hosts
        errors = tuple(OSError(self.number, os.strerror(self.number)) for _ in hosts)
        raise ConnectError(hosts[0], port, self.number, "refused", errors)
        yield


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Dialled:
    dialled = Dialled()
    monkeypatch.setattr(exit_module, "connect_addresses", dialled.connect_addresses)
    return dialled


def domain(name: str, port: int = 80) -> Target:
    return Target(TargetKind.DOMAIN, name.encode(), port)


def address(host: str, port: int = 80) -> Target:
    packed = ipaddress.ip_address(host).packed
    return Target(TargetKind.IPV4 if len(packed) == 4 else TargetKind.IPV6, packed, port)


def refused(exit: Exit, target: Target, tunnel: bytes = b"one") -> Service[ErrorCode]:
    """The code with which a target is refused. That of the made-up network means that it was dialled."""
    with pytest.raises(PeerError) as caught:
        yield from exit.serve(Stream(target, tunnel))  # type: ignore[arg-type]
    return caught.value.code


def refusal(exit: Exit, target: Target) -> ErrorCode:
    with Reactor(clock=FakeClock()) as reactor:
        code = run(reactor, refused(exit, target))
    assert exit.open_connections == 0
    return code


def answers(*hosts: str) -> Any:
    return lambda name: hosts


def test_nothing_is_allowed_by_default(network: Dialled) -> None:
    assert refusal(Exit(), address(PUBLIC)) is ErrorCode.TARGET_NOT_ALLOWED
    assert refusal(Exit(look_up=answers(PUBLIC)), domain("example.org")) is ErrorCode.TARGET_NOT_ALLOWED
    assert network.hosts == []


def test_only_the_allowed_addresses_of_a_name_are_dialled(network: Dialled) -> None:
    mixed = answers("10.0.0.1", PUBLIC, "::1", PUBLIC6, "::ffff:127.0.0.1", PUBLIC, "169.254.169.254")
    assert refusal(Exit(["allow *"], look_up=mixed), domain("example.org")) is ErrorCode.TARGET_REFUSED
    assert network.hosts == [PUBLIC, PUBLIC6]


def test_a_name_that_leads_inside_is_refused_unless_a_rule_names_the_address(network: Dialled) -> None:
    """The example of docs/services.md."""
    rules = ["allow *.example.org 80,443"]
    inside = answers("10.0.0.7")
    assert refusal(Exit(rules, look_up=inside), domain("app.example.org")) is ErrorCode.TARGET_NOT_ALLOWED
    assert network.hosts == []
    rules.append("allow 10.0.0.7 443")
    assert refusal(Exit(rules, look_up=inside), domain("app.example.org")) is ErrorCode.TARGET_NOT_ALLOWED
    assert refusal(Exit(rules, look_up=inside), domain("app.example.org", 443)) is ErrorCode.TARGET_REFUSED
    assert network.hosts == ["10.0.0.7"]


def test_a_name_is_looked_up_once_and_the_answer_that_was_checked_is_dialled(network: Dialled) -> None:
    asked: list[str] = []

    def rebinding(name: str) -> list[str]:
        asked.append(name)
        return [PUBLIC] if len(asked) == 1 else ["127.0.0.1"]

    exit = Exit(["allow *"], look_up=rebinding)
    assert refusal(exit, domain("Rebind.Example.ORG.")) is ErrorCode.TARGET_REFUSED
    assert (asked, network.hosts) == (["rebind.example.org"], [PUBLIC])
    assert refusal(exit, domain("rebind.example.org")) is ErrorCode.TARGET_NOT_ALLOWED
    assert network.hosts == [PUBLIC]


def test_a_name_that_no_rule_can_allow_is_not_looked_up(network: Dialled) -> None:
    asked: list[str] = []

    def look_up(name: str) -> list[str]:
        asked.append(name)
        return [PUBLIC]

    exit = Exit(["allow *.example.org 80", "deny secret.example.net", "allow 10.0.0.0/8 22"], look_up=look_up)
    for target in [domain("example.com"), domain("www.example.org", 81), domain("127.1"), domain("a..b")]:
        assert refusal(exit, target) is ErrorCode.TARGET_NOT_ALLOWED
    assert asked == []
    assert refusal(exit, domain("www.example.org")) is ErrorCode.TARGET_REFUSED
    assert asked == ["www.example.org"]


def test_localhost_is_this_machine_whatever_a_name_server_says(network: Dialled) -> None:
    public = answers(PUBLIC)
    for name in ("localhost", "LOCALHOST.", "some.localhost"):
        assert refusal(Exit(["allow *"], look_up=public), domain(name)) is ErrorCode.TARGET_NOT_ALLOWED
        assert network.hosts == []
        opened = Exit(["allow 127.0.0.0/8", "allow ::1"], look_up=public)
        assert refusal(opened, domain(name)) is ErrorCode.TARGET_REFUSED
        assert network.hosts == ["127.0.0.1", "::1"]
        network.hosts.clear()


def test_the_systems_look_up() -> None:
    assert set(exit_module.look_up("localhost")) <= {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror):
        exit_module.look_up("nothing.invalid")


def test_of_many_addresses_a_few_of_each_family_are_dialled(network: Dialled) -> None:
    many = [f"2606:2800::{number:x}" for number in range(1, 1000)] + [f"8.8.0.{n}" for n in range(200)]
    exit = Exit(["allow *"], look_up=answers(*many))
    assert refusal(exit, domain("example.org")) is ErrorCode.TARGET_REFUSED
    assert network.hosts == [*many[:8], *many[999 : 999 + 8]]


@pytest.mark.parametrize("failure", [socket.gaierror(socket.EAI_NONAME, "unknown"), OSError(5, "broken")])
def test_a_name_without_an_address_is_unreachable(network: Dialled, failure: OSError) -> None:
    def look_up(name: str) -> list[str]:
        raise failure

    exit = Exit(["allow *"], look_up=look_up)
    assert refusal(exit, domain("example.org")) is ErrorCode.TARGET_UNREACHABLE


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ECONNREFUSED, ErrorCode.TARGET_REFUSED),
        (errno.ECONNRESET, ErrorCode.TARGET_REFUSED),
        (errno.ETIMEDOUT, ErrorCode.TIMEOUT),
        (errno.EHOSTUNREACH, ErrorCode.TARGET_UNREACHABLE),
        (errno.ENETUNREACH, ErrorCode.TARGET_UNREACHABLE),
        (errno.EACCES, ErrorCode.TARGET_UNREACHABLE),
        (errno.EMFILE, ErrorCode.BUSY),
        (errno.EADDRNOTAVAIL, ErrorCode.BUSY),
    ],
)
def test_each_failure_to_connect_has_a_code(network: Dialled, number: int, code: ErrorCode) -> None:
    network.number = number
    assert refusal(Exit(["allow *"]), address(PUBLIC)) is code


@pytest.mark.parametrize("target", [address(PUBLIC), domain("example.org")])
def test_a_target_that_never_answers_times_out(monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
    def never(hosts: Sequence[str], port: int) -> Service[Any]:
        yield Signal()

    monkeypatch.setattr(exit_module, "connect_addresses", never)
    exit = Exit(["allow *"], ExitSettings(connect_s=7.0), look_up=answers(PUBLIC))
    assert refusal(exit, target) is ErrorCode.TIMEOUT


def test_a_name_server_that_never_answers_times_out(network: Dialled) -> None:
    answered = threading.Event()

    def look_up(name: str) -> list[str]:
        answered.wait(PATIENCE_S)
        return [PUBLIC]

    exit = Exit(["allow *"], ExitSettings(connect_s=0.05), look_up=look_up)
    try:
        with Reactor() as reactor:
            assert run(reactor, refused(exit, domain("example.org"))) is ErrorCode.TIMEOUT
    finally:
        answered.set()
    assert (network.hosts, exit.open_connections) == ([], 0)


def test_slow_names_of_one_tunnel_do_not_hold_up_another(network: Dialled) -> None:
    answered = threading.Event()

    def look_up(name: str) -> list[str]:
        if name == "slow.example":
            answered.wait(PATIENCE_S)
        return [PUBLIC]

    exit = Exit(["allow *"], look_up=look_up)

    def service() -> Service[list[ErrorCode]]:
        slow = []
        for _ in range(40):
            slow.append((yield Spawn(refused(exit, domain("slow.example")))))
        yield from passes(5)
        code = yield from refused(exit, domain("other.example"), tunnel=b"two")
        assert not any(handle.is_finished for handle in slow)
        answered.set()
        codes = [code]
        for handle in slow:
            codes.append((yield from handle.join()))
        return codes

    try:
        with Reactor() as reactor:
            assert run(reactor, service()) == [ErrorCode.TARGET_REFUSED] * 41
    finally:
        answered.set()
    assert exit.open_connections == 0


def test_an_abandoned_look_up_counts_until_it_ends(network: Dialled) -> None:
    """Otherwise one tunnel would occupy the threads for look-ups of all."""
    answered = threading.Event()
    begun: list[str] = []

    def look_up(name: str) -> list[str]:
        if name == "slow.example":
            begun.append(name)
            answered.wait(PATIENCE_S)
        return [PUBLIC]

    exit = Exit(["allow *"], look_up=look_up)

    def service() -> Service[list[ErrorCode]]:
        for number in range(TUNNEL_LOOK_UPS):
            given_up = yield Spawn(refused(exit, domain("slow.example")))
            while len(begun) == number:
                yield Sleep(0.001)
            given_up.cancel()
        waiting = yield Spawn(refused(exit, domain("slow.example")))
        yield from passes(5)
        codes = [(yield from refused(exit, domain("other.example"), tunnel=b"two"))]
        assert len(begun) == TUNNEL_LOOK_UPS
        answered.set()
        codes.append((yield from waiting.join()))
        return codes

    try:
        with Reactor() as reactor:
            assert run(reactor, service()) == [ErrorCode.TARGET_REFUSED] * 2
    finally:
        answered.set()
    assert exit.open_connections == 0


def test_at_the_limit_of_connections_the_next_is_refused_until_one_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(hosts: Sequence[str], port: int) -> Service[Any]:
        yield Sleep(10)
        raise ConnectError(hosts[0], port, errno.ECONNREFUSED, "", (ConnectionRefusedError(111, ""),))

    monkeypatch.setattr(exit_module, "connect_addresses", slow)
    exit = Exit(["allow *"], ExitSettings(connections=3))

    def connect(after_s: float) -> Service[ErrorCode]:
        yield Sleep(after_s)
        return (yield from refused(exit, address(PUBLIC)))

    def service() -> Service[list[ErrorCode]]:
        handles = []
        for after_s in (0, 1, 2, 3, 9, 10.5):
            handles.append((yield Spawn(connect(after_s))))
        codes = []
        for handle in handles:
            codes.append((yield from handle.join()))
        return codes

    served, busy = ErrorCode.TARGET_REFUSED, ErrorCode.BUSY
    with Reactor(clock=FakeClock()) as reactor:
        assert run(reactor, service()) == [served, served, served, busy, busy, served]
    assert exit.open_connections == 0


# -- this machine ----------------------------------------------------------------------------------------


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """A public address that this machine is made to have."""
    monkeypatch.setattr(exit_module, "is_of_this_machine", lambda address: str(address) == PUBLIC)
    return PUBLIC


def test_an_address_of_this_machine_is_opened_by_a_rule_that_names_it_alone(
    network: Dialled, own: str
) -> None:
    for rule in ("allow *", "allow 0.0.0.0/0", "allow 93.184.0.0/16", "allow 93.184.216.34/31"):
        assert refusal(Exit([rule]), address(own)) is ErrorCode.TARGET_NOT_ALLOWED
    assert network.hosts == []
    assert refusal(Exit([f"allow {own} 80", "allow *"]), address(own)) is ErrorCode.TARGET_REFUSED


def test_the_node_itself_is_never_dialled(network: Dialled, own: str) -> None:
    exit = Exit([f"allow {own}", "allow 127.0.0.0/8", "allow 8.8.8.8", "allow *"])
    exit.avoid([Address("0.0.0.0", 4000), Address("8.8.8.8", 4000)])
    for host in (own, "127.0.0.1", "127.9.9.9", "8.8.8.8"):
        assert refusal(exit, address(host, 4000)) is ErrorCode.TARGET_NOT_ALLOWED
        assert network.hosts == []
        assert refusal(exit, address(host, 4001)) is ErrorCode.TARGET_REFUSED
        network.hosts.clear()
    assert refusal(exit, address("1.1.1.1", 4000)) is ErrorCode.TARGET_REFUSED
    advertised = Exit(["allow *"])
    advertised.avoid([Address("8.8.8.8", 4000)])
    assert refusal(advertised, address("8.8.8.8", 80)) is ErrorCode.TARGET_NOT_ALLOWED


def test_the_addresses_of_this_machine_are_known() -> None:
    for host in ("127.0.0.1", "127.3.2.1", "0.0.0.0"):
        assert exit_module.is_of_this_machine(ipaddress.ip_address(host))
    for host in (PUBLIC, PUBLIC6, "192.0.2.1", "2001:db8::1"):
        assert not exit_module.is_of_this_machine(ipaddress.ip_address(host))


# -- properties ------------------------------------------------------------------------------------------

ADDRESSES = (
    st.sampled_from([*SPECIAL, PUBLIC, PUBLIC6])
    | st.ip_addresses().map(str)
    | st.ip_addresses(v=4).map(lambda inner: f"::ffff:{inner}")
)
NAMES = st.sampled_from(["example.org", "localhost", "127.1", "0x7f000001", "2130706433", "127.0.0.1", "0"])
RULES = st.sampled_from([*WIDE, "allow example.org", "allow *.org", "deny 1.0.0.0/8", "allow localhost"])


@given(rules=st.lists(RULES, max_size=4), hosts=st.lists(ADDRESSES, min_size=1, max_size=5), name=NAMES)
def test_without_a_rule_that_names_it_no_special_address_is_dialled(
    rules: list[str], hosts: list[str], name: str
) -> None:
    network = Dialled()
    exit = Exit(rules, look_up=answers(*hosts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exit_module, "connect_addresses", network.connect_addresses)
        for target in [domain(name), domain(f"{name}."), *map(address, hosts)]:
            refusal(exit, target)
    assert [host for host in network.hosts if not is_public(host)] == []


@pytest.mark.parametrize(
    "value",
    [{"connections": 0}, {"bytes_per_s": -1}, {"connect_s": -1.0}, {"connection_idle_s": float("nan")}],
)
def test_settings_are_checked(value: dict[str, Any]) -> None:
    with pytest.raises(BadArgument):
        ExitSettings(**value)
