"""Published TCP services: clients reach them by name; a list restricts them to listed clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reactor import Service, Signal
from tests.support.network import PATIENCE_S, wait_until, wait_until_idle
from tests.support.servers import free_port, tcp_server
from tunnel import Limits, LocalNetwork
from tunnel.client import Client
from tunnel.client.clients import ThreadTunnel
from tunnel.crypto.primitives import tunnel_engine
from tunnel.errors import BadArgument, ErrorCode, KeyFileError, SubStreamReset, TargetNotAllowed
from tunnel.established import SubStream, Target, TargetKind
from tunnel.identity.client_key import Claim, ClientKey
from tunnel.services import Published, Services, StreamService

ENGINE = tunnel_engine()
FRIEND, STRANGER = ClientKey.generate(), ClientKey.generate()


class NosyExit(StreamService):
    """Notes what else it receives with a target."""

    def __init__(self) -> None:
        self.proofs: list[bytes] = []

    def serve(self, stream: SubStream[Signal]) -> Service[None]:
        self.proofs.append(stream.proof)
        raise TargetNotAllowed("it only looks")
        yield


NOSY = NosyExit()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A TCP server that greets."""
    with tcp_server(lambda conn: conn.sendall(b"hello")) as port:
        yield port


@pytest.fixture(scope="module")
def net(port: int) -> Iterator[LocalNetwork]:
    services = Services(
        {
            "open": Published("127.0.0.1", port),
            "closed": Published("127.0.0.1", port, clients=[FRIEND.public(ENGINE)]),
            "down": Published("127.0.0.1", free_port()),
            "nowhere": Published("name.invalid", 1),
            "one": Published("127.0.0.1", port, most=1),
            "nobody": Published("127.0.0.1", port, clients=[]),
            "one-friend": Published("127.0.0.1", port, most=1, clients=[FRIEND.public(ENGINE)]),
        },
        exit=NOSY,
    )
    with LocalNetwork(peers=4, service=services, limits=Limits(linger_s=1.0, answer_s=5.0)) as net:
        yield net
        wait_until_idle(net)


@pytest.fixture
def tunnel(net: LocalNetwork) -> Iterator[ThreadTunnel]:
    with Client(net[0]).tunnel(net[3].id, hops=1) as tunnel:
        yield tunnel


def greeting(tunnel: ThreadTunnel, name: str, key: ClientKey | None = None) -> bytes:
    with tunnel.open(name, client_key=key, timeout_s=PATIENCE_S) as stream:
        return stream.read(timeout_s=PATIENCE_S)


@pytest.mark.parametrize("key", [None, STRANGER], ids=["no key", "any key"])
def test_a_service_without_a_list_is_for_everybody(tunnel: ThreadTunnel, key: ClientKey | None) -> None:
    assert greeting(tunnel, "open", key) == b"hello"


def test_a_listed_client_is_served(tunnel: ThreadTunnel) -> None:
    assert greeting(tunnel, "closed", FRIEND) == b"hello"


@pytest.mark.parametrize("key", [None, STRANGER], ids=["no key", "another key"])
def test_another_client_is_refused(tunnel: ThreadTunnel, key: ClientKey | None) -> None:
    with pytest.raises(SubStreamReset) as refused:
        greeting(tunnel, "closed", key)
    assert refused.value.code is ErrorCode.TARGET_NOT_ALLOWED


def test_a_service_with_an_empty_list_refuses_everybody(tunnel: ThreadTunnel) -> None:
    """The program that made the list may have removed the last client."""
    for key in (None, FRIEND):
        with pytest.raises(SubStreamReset, match="TARGET_NOT_ALLOWED"):
            greeting(tunnel, "nobody", key)


def test_a_proof_is_for_one_tunnel_and_one_target() -> None:
    binding, target, clients = bytes(32), b"target", {FRIEND.public(ENGINE)}
    proof = FRIEND.proof(ENGINE, binding, target)
    Claim(binding, target, proof).check(ENGINE, clients)
    changed = proof[:-1] + bytes([proof[-1] ^ 1])
    for wrong in (
        Claim(bytes([1]) + binding[1:], target, proof),
        Claim(binding, b"other", proof),
        Claim(binding, target, changed),
        Claim(binding, target, b""),
        Claim(binding, target, STRANGER.public(ENGINE) + proof[32:]),
        # Of a query that has no binding: the same signature would be good for all of them.
        Claim(b"", target, FRIEND.proof(ENGINE, b"", target)),
    ):
        with pytest.raises(TargetNotAllowed):
            wrong.check(ENGINE, clients)


@pytest.mark.parametrize(
    ("name", "code"), [("down", ErrorCode.TARGET_REFUSED), ("nowhere", ErrorCode.TARGET_UNREACHABLE)]
)
def test_a_server_that_is_not_there_is_reported(tunnel: ThreadTunnel, name: str, code: ErrorCode) -> None:
    with pytest.raises(SubStreamReset) as failed:
        greeting(tunnel, name)
    assert failed.value.code is code


def test_the_places_of_a_service_are_limited_and_come_back(net: LocalNetwork, tunnel: ThreadTunnel) -> None:
    one = net[3].context.service.find(b"one")
    assert isinstance(one, Published)
    for _ in range(3):
        first = tunnel.open("one", timeout_s=PATIENCE_S)
        assert first.read(timeout_s=PATIENCE_S) == b"hello"
        with pytest.raises(SubStreamReset) as busy:
            tunnel.open("one", timeout_s=PATIENCE_S)
        assert busy.value.code is ErrorCode.BUSY
        first.close()
        wait_until(net, lambda: one.connections == 0)


def test_an_unlisted_client_does_not_learn_that_a_service_is_full(tunnel: ThreadTunnel) -> None:
    with tunnel.open("one-friend", client_key=FRIEND, timeout_s=PATIENCE_S) as first:
        assert first.read(timeout_s=PATIENCE_S) == b"hello"
        for key, code in ((STRANGER, ErrorCode.TARGET_NOT_ALLOWED), (FRIEND, ErrorCode.BUSY)):
            with pytest.raises(SubStreamReset) as refused:
                tunnel.open("one-friend", client_key=key, timeout_s=PATIENCE_S)
            assert refused.value.code is code


def test_an_exit_does_not_learn_the_key_of_a_client(tunnel: ThreadTunnel) -> None:
    with pytest.raises(SubStreamReset):
        tunnel.open(Target(TargetKind.DOMAIN, b"site.test", 80), client_key=FRIEND, timeout_s=PATIENCE_S)
    assert NOSY.proofs == [b""]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("127.0.0.1", 0), BadArgument),
        (("127.0.0.1", 65_536), BadArgument),
        (("127.0.0.1", "80"), TypeError),
        ((b"127.0.0.1", 80), TypeError),
    ],
)
def test_arguments_are_checked(arguments: tuple[str, int], error: type[Exception]) -> None:
    with pytest.raises(error):
        Published(*arguments)


def test_client_keys_have_32_bytes() -> None:
    with pytest.raises(BadArgument, match="clients"):
        Published("127.0.0.1", 80, clients=[b"short"])


def test_a_client_key_is_kept_in_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "client.key"
    FRIEND.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert ClientKey.load(path) == FRIEND
    assert FRIEND.seed.hex() not in repr(FRIEND)
    with pytest.raises(FileExistsError):
        FRIEND.save(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="others could read it"):
        ClientKey.load(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no such file: {path}"),
        ("", "{path} is not a client key: it is not JSON"),
        ("{}", "{path} is not a client key, but a file of another kind"),
        ("[]", "{path} is not a client key, but a file of another kind"),
        ('{"mtun-client-key": 2, "seed": ""}', "{path} is not a client key: version 2, expected 1"),
        (
            '{"mtun-client-key": 1, "seed": "00"}',
            "{path} is not a client key: a seed of 1 bytes, expected 32",
        ),
    ],
)
def test_another_file_is_no_client_key(tmp_path: Path, content: str | None, text: str) -> None:
    path = tmp_path / "client.key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(KeyFileError) as caught:
        ClientKey.load(path)
    assert str(caught.value) == text.format(path=path)
    assert "mtun keygen --client" in caught.value.hint
