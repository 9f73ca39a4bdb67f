"""`mtun send` and `mtun get` with a client key or a secret, each command and node a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import running
from tests.tunnel.helpers import OPENSSL
from tunnel.cli.main import main
from tunnel.config.settings import SECRET_VARIABLE
from tunnel.identity.client_key import ClientKey

pytestmark = pytest.mark.full

SECRET = "the password of all of us"


class Place:
    """A network in a folder, whose node-1 lets a key write, those with the secret list, and both read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.friend, self.stranger, self.secret = folder / "friend.key", folder / "stranger.key", folder / "s"
        self.guess = folder / "guess"
        friend = ClientKey.generate()
        friend.save(self.friend)
        ClientKey.generate().save(self.stranger)
        for path, text in ((self.secret, SECRET), (self.guess, SECRET + "?")):
            path.touch(mode=0o600)
            path.write_text(text + "\n")
        assert main(["network", str(folder / "net"), "--nodes", "3"]) == 0
        public = friend.public(OPENSSL).hex()
        config = folder / "net" / "node-1" / "node.toml"
        rights = f'\n[files]\nread = ["{public}", "secret"]\nwrite = ["{public}"]\nlist = ["secret"]\n'
        config.write_text(config.read_text() + rights + f'secret_file = "{self.secret}"\n')
        (folder / "report").write_text("content")

    def run(self, *arguments: str | Path, secret: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, SECRET_VARIABLE: secret}
        command = [sys.executable, "-m", "tunnel", *map(str, arguments)]
        command += ["--network", str(self.folder / "net"), "--hops", "1"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("access"))
    with running("up", str(place.folder / "net")):
        yield place


def test_keys_and_secrets_of_commands(place: Place) -> None:
    send = ("send", place.folder / "report", "node-1")
    get = ("get", "node-1", "report", "-o", "-")
    names = ("get", "node-1")
    assert place.run(*send, "--key", place.friend).returncode == 0
    assert place.run(*get, "--key", place.friend).stdout == "content"
    assert place.run(*get, "--secret-file", place.secret).stdout == "content"
    assert place.run(*get, secret=SECRET).stdout == "content"
    assert "report" in place.run(*names, secret=SECRET).stdout
    for refused, hint in (
        (place.run(*send), "--key FILE, --secret-file FILE or the variable MTUN_SECRET"),
        (place.run(*send, "--secret-file", place.secret), "a different secret, or allows no secret"),
        (place.run(*get, "--key", place.stranger, secret=SECRET), "list your public key in [files]"),
        (place.run(*get, "--secret-file", place.guess), "a different secret"),
        (place.run(*names, "--key", place.friend), "list your public key in [files]"),
    ):
        assert (refused.returncode, refused.stdout) == (1, "")
        assert re.match(r"error: node-1 does not allow this client to \w+ files \(DENIED\)", refused.stderr)
        assert hint in refused.stderr
        assert SECRET not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "secret", "status", "text"),
    [
        (["--key", "missing"], "", 2, "no such file: missing"),
        (["--secret-file", "missing"], "", 2, "no such file: missing"),
        ([], __file__, 2, "MTUN_SECRET is the name of a file"),
        ([], "short", 2, "MTUN_SECRET: expected 16 to 1,024 bytes, got 5"),
    ],
)
def test_a_wrong_option_is_named(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    secret: str,
    status: int,
    text: str,
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, secret)
    assert main(["get", "node-1", *arguments, "--network", "mynet"]) == status
    assert text in capsys.readouterr().err
