"""Access to files: each right for nobody, everybody, a listed client key, or a shared secret."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reactor import Service, Spawn
from tests.support.network import PATIENCE_S, wait_until_idle
from tests.support.second_implementation import expand
from tests.tunnel.helpers import OPENSSL, PYCRYPTODOME
from tests.tunnel.tunnels import ECHO, Pair
from tunnel import LocalNetwork, QueryFailed, ReplyMode
from tunnel.client import Client, connect, get, list_files, put
from tunnel.control import ControlServer
from tunnel.control.client import CONTROL_FILE
from tunnel.errors import (
    BadArgument,
    ErrorCode,
    FilesError,
    KeyFileError,
    LocalTunnelError,
    TargetNotAllowed,
)
from tunnel.established import Target, TargetKind
from tunnel.geometry import SEED_BYTES
from tunnel.identity.client_key import Claim, ClientKey
from tunnel.node.query.request import SERVED_MODES
from tunnel.onion.codec import OnionCodec
from tunnel.onion.key_schedule import query_binding
from tunnel.services import (
    Files,
    FilesSettings,
    FileStatus,
    InnerService,
    Query,
    Reply,
    Services,
    service_prefix,
)
from tunnel.services.base import proven_prefix
from tunnel.services.file_requests import REPLY_BYTES, FileReply, FileRequest, Operation

FRIEND, STRANGER = ClientKey.generate(), ClientKey.generate()
SECRET = "the password of all of us"
MEMBER, GUESSER = ClientKey.of_secret(SECRET), ClientKey.of_secret(SECRET + "?")
LISTED = [FRIEND.public(OPENSSL), MEMBER.public(OPENSSL)]
KEYS = {"key": FRIEND, "wrong key": STRANGER, "secret": MEMBER, "wrong secret": GUESSER, "nothing": None}

Ask = Callable[[LocalNetwork, str, ClientKey | None], "Future[Any]"]
ASK: dict[str, Ask] = {
    "read": lambda net, service, key: get(
        net[0], net[2].id, "held", io.BytesIO(), service=service, client_key=key, hops=1
    ),
    "write": lambda net, service, key: put(
        net[0], net[2].id, io.BytesIO(b"new"), "new", service=service, client_key=key, hops=1
    ),
    "list": lambda net, service, key: list_files(net[0], net[2].id, service=service, client_key=key, hops=1),
}


class Recorder(InnerService):
    """A hostile destination: it keeps what each query says about its client. Attributes: files: it serves."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.claims: list[Claim] = []

    def handle(self, query: Query, reply: Reply) -> Service[None]:
        self.claims.append(query.claim)
        yield from self.files.handle(query, reply)


@pytest.fixture(scope="module")
def recorder(folder: Path) -> Recorder:
    return Recorder(Files(folder, FilesSettings(list=LISTED)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    (folder / "held").write_bytes(b"content")
    return folder


@pytest.fixture(scope="module")
def net(folder: Path, recorder: Recorder) -> Iterator[LocalNetwork]:
    """A node with a files service for each right, which only its listed clients have."""
    services: dict[str, InnerService] = {"recorder": recorder, "open": Files(folder)}
    for right in ASK:
        services[right] = Files(folder, FilesSettings(**{right: LISTED}))  # type: ignore[arg-type]
    services["pycryptodome"] = Files(folder, FilesSettings(list=LISTED), engine=PYCRYPTODOME)
    services["nobody"] = Files(folder, FilesSettings(read=[], write=[], list=[]))
    with LocalNetwork(peers=4, service=Services(services)) as net:
        yield net
        wait_until_idle(net)


@pytest.mark.parametrize("given", KEYS)
@pytest.mark.parametrize("right", ASK)
def test_a_right_is_for_the_listed_clients_only(net: LocalNetwork, right: str, given: str) -> None:
    future = ASK[right](net, right, KEYS[given])
    if given in ("key", "secret"):
        future.result(PATIENCE_S)
        return
    with pytest.raises(FilesError) as refused:
        future.result(PATIENCE_S)
    assert refused.value.status is FileStatus.DENIED
    assert "only with a listed client key or the secret" in str(refused.value)


@pytest.mark.parametrize("right", ASK)
def test_the_other_rights_stay_with_everybody(net: LocalNetwork, right: str) -> None:
    for other in ASK.keys() - {right}:
        ASK[right](net, other, None).result(PATIENCE_S)


@pytest.mark.parametrize("right", ASK)
def test_the_default_is_everybody_and_an_empty_list_nobody(net: LocalNetwork, right: str) -> None:
    for key in KEYS.values():
        ASK[right](net, "open", key).result(PATIENCE_S)
        with pytest.raises(FilesError, match="DENIED"):
            ASK[right](net, "nobody", key).result(PATIENCE_S)


def test_the_other_engine_checks_alike(net: LocalNetwork) -> None:
    ASK["list"](net, "pycryptodome", FRIEND).result(PATIENCE_S)
    with pytest.raises(FilesError, match="DENIED"):
        ASK["list"](net, "pycryptodome", STRANGER).result(PATIENCE_S)


def test_a_refusal_is_the_same_for_files_that_exist_and_that_do_not(net: LocalNetwork, folder: Path) -> None:
    def answer(request: FileRequest, service: str) -> FileReply:
        query = Client(net[0]).query(net[2].id, request.pack(), service=service, hops=1)
        return FileReply.unpack(query.result(PATIENCE_S).read()[:REPLY_BYTES])

    digest = bytes(31) + b"x"
    for name in ("held", "none", "never-written"):
        assert answer(FileRequest(Operation.GET, name), "read").status is FileStatus.DENIED
        for operation in (Operation.OFFER, Operation.PUT):
            request = FileRequest(operation, name, 5, 0, digest)
            assert answer(request, "write").status is FileStatus.DENIED
    assert not any(path.name.endswith(".part") for path in folder.iterdir()), "a refused put leaves nothing"


def with_proof(name: str, proof: bytes) -> bytes:
    """A request for the list, with any proof."""
    prefix = service_prefix(name)
    return bytes([prefix[0] | 0x80]) + prefix[1:] + proof + LIST


def raw(net: LocalNetwork, message: bytes, bob: int = 2, *, asker: int = 0) -> FileStatus:
    reply = net[asker].query(net[bob].id, message, hops=1).result(PATIENCE_S).read()
    return FileReply.unpack(reply[:REPLY_BYTES]).status


LIST = FileRequest(Operation.LIST).pack()


def test_a_proof_is_worth_nothing_in_another_query(net: LocalNetwork, recorder: Recorder) -> None:
    """As its destination could replay it, to itself or to another node with the same service and list."""
    recorder.claims.clear()
    for _ in range(2):
        list_files(net[0], net[2].id, service="recorder", client_key=FRIEND, hops=1).result(PATIENCE_S)
    first, second = recorder.claims
    first.check(OPENSSL, LISTED)
    assert first.binding != second.binding
    for proof in (first.proof, second.proof):
        for bob in (1, 2):
            assert raw(net, with_proof("recorder", proof), bob) is FileStatus.DENIED


def test_a_proof_is_for_one_service(net: LocalNetwork, recorder: Recorder) -> None:
    recorder.claims.clear()
    list_files(net[0], net[2].id, service="recorder", client_key=FRIEND, hops=1).result(PATIENCE_S)
    (claim,) = recorder.claims
    claim.check(OPENSSL, LISTED)
    for name in (b"list", b"recorde", b"recorder2"):
        target = Target(TargetKind.SERVICE, name).pack()
        with pytest.raises(TargetNotAllowed):
            replace(claim, target=target).check(OPENSSL, LISTED)


def test_a_proof_is_for_one_node(
    net: LocalNetwork, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile destination puts the seed of a query that it received into a query of its own to another."""
    hostile, seeds = net[1], list[bytes]()

    def recorded(seed: bytes, destination: bytes) -> bytes:
        seeds.append(seed)
        return query_binding(seed, destination)

    with monkeypatch.context() as patch:
        patch.setattr("tunnel.node.answer.send_reply.query_binding", recorded)
        list_files(net[0], hostile.id, service="recorder", client_key=FRIEND, hops=1).result(PATIENCE_S)
    received, seed = recorder.claims[-1], seeds[-1]
    received.check(OPENSSL, LISTED)
    codec = OnionCodec(
        ring=hostile.context.codec.ring,
        directory=net.directory,
        random_bytes=lambda count: seed if count == SEED_BYTES else os.urandom(count),
    )
    monkeypatch.setattr(hostile.context, "codec", codec)
    assert raw(net, with_proof("recorder", received.proof), 2, asker=1) is FileStatus.DENIED
    # The attack is what it claims to be: the victim saw the same seed.
    assert recorder.claims[-1].proof == received.proof
    assert recorder.claims[-1].binding == expand(seed, b"client" + net[2].id, 32) != received.binding


def test_a_proof_of_alice_does_not_come_back_to_her() -> None:
    """Both ends of a tunnel have one binding: Bob opens a sub-stream to a service of hers with her proof."""
    pair = Pair()
    pair.settle()
    assert pair.alice.binding is not None
    assert pair.alice.binding == pair.bob.binding
    proof = FRIEND.proof(OPENSSL, pair.alice.binding, ECHO.pack())
    pair.alice.open(ECHO, proof)
    pair.settle()
    assert pair.bob.accept().proof == proof
    pair.bob.open(ECHO, proof)
    pair.settle()
    assert pair.alice.accept().proof == b""


@pytest.mark.parametrize("cut", [0, 1, 95])
def test_a_proof_that_is_cut_is_malformed(net: LocalNetwork, cut: int) -> None:
    message = proven_prefix(service_prefix("list"), FRIEND, bytes(32))
    with pytest.raises(QueryFailed) as failed:
        raw(net, message[: len(message) - 96 + cut])
    assert failed.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("mode", sorted(set(SERVED_MODES) - {ReplyMode.NONE}))
def test_every_reply_mode_takes_a_key(net: LocalNetwork, mode: ReplyMode) -> None:
    listing = list_files(net[0], net[2].id, service="list", client_key=FRIEND, hops=1, mode=mode)
    assert "held" in [entry.name for entry in listing.result(PATIENCE_S)]


def test_a_sub_stream_takes_a_key_and_a_message_does_not(net: LocalNetwork) -> None:
    with Client(net[0]).tunnel(net[2].id, hops=1) as tunnel:
        for key, status in (
            (FRIEND, FileStatus.OK),
            (STRANGER, FileStatus.DENIED),
            (None, FileStatus.DENIED),
        ):
            with tunnel.open("list", client_key=key, timeout_s=PATIENCE_S) as stream:
                stream.write(LIST, timeout_s=PATIENCE_S)
                assert FileReply.unpack(stream.read(REPLY_BYTES, timeout_s=PATIENCE_S)).status is status
        # A message has no binding: neither that of its tunnel nor the empty one helps.
        for binding in (tunnel.inner.core.binding, b""):
            assert binding is not None
            message = proven_prefix(service_prefix("list"), FRIEND, binding) + LIST
            answer = tunnel.ask(message, timeout_s=PATIENCE_S)
            assert answer is not None
            assert FileReply.unpack(answer[:REPLY_BYTES]).status is FileStatus.DENIED


def test_a_program_over_the_control_socket_gives_its_key(net: LocalNetwork, tmp_path: Path) -> None:
    (state := tmp_path / "state").mkdir(mode=0o700)

    def opened() -> Service[ControlServer]:
        server = ControlServer(net[0], net.directory, state / CONTROL_FILE)
        yield Spawn(server.serve(), "control")
        return server

    server = net.submit(opened()).result(PATIENCE_S)
    try:
        with connect(state) as node:
            for key, given in ((FRIEND, True), (MEMBER, True), (STRANGER, False), (None, False)):
                target = io.BytesIO()
                fetching = get(node, net[2].id, "held", target, service="read", client_key=key, hops=1)
                if given:
                    fetching.result(PATIENCE_S)
                    assert target.getvalue() == b"content"
                else:
                    with pytest.raises(FilesError, match="DENIED"):
                        fetching.result(PATIENCE_S)
            big = io.BytesIO(bytes(300_000))  # sent in pieces
            sending = put(node, net[2].id, big, "big", service="write", client_key=FRIEND, hops=1)
            assert sending.result(PATIENCE_S).size == 300_000
    finally:
        net.submit(server.finish()).result(PATIENCE_S)


def test_wrong_keys_are_refused_where_they_are_given(net: LocalNetwork) -> None:
    with pytest.raises(LocalTunnelError, match="only a service with a name"):
        list_files(net[0], net[2].id, client_key=FRIEND)
    with pytest.raises(TypeError, match="expected a ClientKey, got str"):
        list_files(net[0], net[2].id, service="list", client_key="secret")  # type: ignore[arg-type]


def test_a_secret_makes_the_same_key_for_everybody() -> None:
    assert ClientKey.of_secret(SECRET) == MEMBER != GUESSER
    assert SECRET not in repr(MEMBER)
    for short in ("", "x" * 15, "é" * 7, "x" * 1_025):
        with pytest.raises(BadArgument, match="expected 16 to 1,024 bytes"):
            ClientKey.of_secret(short)
    with pytest.raises(TypeError, match="expected text, got bytes"):
        ClientKey.of_secret(b"x" * 16)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no such file: {path}"),
        (b"short\n", "{path} is not a secret: expected 16 to 1,024 bytes, got 5"),
        (b"\xff" * 20, "{path} is not a secret: it is not text"),
        (b"x" * 9_000, "{path} is not a secret: expected 16 to 1,024 bytes"),
    ],
)
def test_another_file_is_no_secret(tmp_path: Path, content: bytes | None, text: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(KeyFileError) as caught:
        ClientKey.load_secret(path)
    assert str(caught.value).startswith(text.format(path=path))
    assert "mode 0600" in caught.value.hint


def test_a_secret_is_in_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"\n  {SECRET} \r\n")
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="others could read it"):
        ClientKey.load_secret(path)
    path.chmod(0o600)
    assert ClientKey.load_secret(path) == MEMBER
