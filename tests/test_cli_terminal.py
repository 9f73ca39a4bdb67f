"""`mtun` at a terminal: signals, pipes, encodings, narrow windows, typing errors, and imports at start."""

from __future__ import annotations

import ast
import fcntl
import io
import json
import logging
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.terminal import read_terminal
from tunnel import __version__
from tunnel.cli import main, options
from tunnel.cli.client import Client, PeerNames
from tunnel.cli.main import LogFormatter, make_parser
from tunnel.cli.options import COMMANDS
from tunnel.cli.terminal import ProgressBar, prepare_output, printable, say, table, text_width
from tunnel.codes import CODES, Report
from tunnel.crypto.primitives import tunnel_engine
from tunnel.directory import StaticDirectory
from tunnel.directory.base import PeerFiles
from tunnel.errors import ErrorCode, QueryFailed
from tunnel.node.query.request import MAX_RETRIES

CLI = Path(sys.modules["tunnel.cli.main"].__file__ or "").parent
HEAVY = (
    "asyncio",
    "concurrent",
    "cryptography",
    "Crypto",
    "reactor",
    "readwrite_comp",
    "tunnel.node",
    "socket",
)


def _start(*arguments: str, stdout: Any = subprocess.PIPE, **environment: str) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, "-m", "tunnel", *arguments],
        env=kept | environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE,
    )  # fmt: skip


def _mtun(*arguments: str, **environment: str) -> tuple[int, str, str]:
    process = _start(*arguments, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


def _wrong(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The output of a wrong use. The status must be 2."""
    try:
        status: Any = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal") / "net"
    assert main(["network", str(folder), "--nodes", "4"]) == 0
    return folder


# -- imports at start, and the version --------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["pign"], ["--hepl"]], ids="".join)
def test_commands_without_network_code_load_none(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom tunnel.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        f"heavy = [name for name in sys.modules if name.startswith({HEAVY!r})]\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_package() -> None:
    assert _mtun("--version") == (0, f"mtun {__version__}\n", "")


def test_the_limit_of_retries_that_the_parser_knows_is_that_of_the_node() -> None:
    assert options.MAX_RETRIES == MAX_RETRIES


# -- the output ------------------------------------------------------------------------------------------


def test_commands_print_through_one_module() -> None:
    """That module handles escapes, closed pipes and characters that a terminal lacks, for all commands."""
    for path in CLI.glob("*.py"):
        if path.name in ("terminal.py", "__init__.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path.name}, line {node.lineno}: use say or complain"


@pytest.mark.full
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["peers", "--network", "{net}"],
        ["peers", "--network", "{net}", "--json"],
        ["demo", "--peers", "3"],
        ["bench", "--count", "1", "--size", "1"],
        ["network", "{tmp}/new", "--nodes", "1"],
    ],
)
def test_a_command_whose_output_pipe_is_closed_ends_silently(
    net: Path, tmp_path: Path, arguments: list[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = _start(*[argument.format(net=net, tmp=tmp_path) for argument in arguments], stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGPIPE, b"")


@pytest.mark.full
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:surrogateescape", "ascii:strict", "cp1252"])
@pytest.mark.parametrize("arguments", [["peers", "--network", "{net}"], ["network", "--help"]])
def test_no_letter_is_missing_from_a_terminal(net: Path, encoding: str, arguments: list[str]) -> None:
    status, out, err = _mtun(*[a.format(net=net) for a in arguments], PYTHONIOENCODING=encoding)
    assert (status, err) == (0, "")
    assert out.isascii() or encoding == "cp1252"
    assert "\\u" not in out


def test_the_posix_locale_shows_tables() -> None:
    environment = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, out, err = _mtun("demo", "--peers", "3", "--hops", "1", "--size", "1k", **environment)
    assert (status, err) == (0, "")
    assert "Alice" in out
    assert "----" in out


@given(st.text())
def test_nothing_shown_moves_the_cursor(text: str) -> None:
    shown = printable(text)
    assert all(letter.isprintable() or letter in "\u00a0\u3000" for letter in shown)
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nhint: rm -rf", "a\\nhint: rm -rf"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("\udcff", "\\xff"),
        ("日本 é", "日本 é"),
    ],
)
def test_names_are_shown_escaped_in_errors_logs_and_tables(
    capsys: pytest.CaptureFixture[str], name: str, shown: str
) -> None:
    assert shown in _wrong(capsys, "up", name)
    record = logging.LogRecord("a", logging.ERROR, "", 1, "peer %s", (name,), None)
    assert LogFormatter("%(message)s").format(record) == f"peer {shown}"
    assert table(["name", "id"], [[name, "1"]]).splitlines()[-1].startswith(shown)


def test_letters_that_an_encoding_lacks_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    prepare_output()
    say("── … – █░ ü 日 \udce9")
    assert raw.getvalue() == b"-- ... - #. \\xfc \\u65e5 \\xe9\n"


@pytest.mark.parametrize("columns", [1, 8, 20, 39, 40, 80, 300])
@pytest.mark.parametrize("unit", [None, " nodes"])
def test_a_bar_fits_its_terminal(columns: int, unit: str | None) -> None:
    bar = ProgressBar(1 << 33, enabled=False, unit=unit)
    for done in (0, 1, 1 << 20, (1 << 33) - 1, 1 << 33, 1 << 34):
        for rate in (0.0, 0.001, 5e6, 1e12):
            assert len(bar.line(done, rate, columns)) < max(columns, 2)
    if unit is None and columns >= 40:
        assert "1.0 MiB/s" in bar.line(1 << 32, 1 << 20, columns)
        assert "1:08:16 left" in bar.line(1 << 32, 1 << 20, columns)


def test_a_resumed_transfer_shows_the_current_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = ProgressBar(1000 << 20, enabled=True)
    bar.update(500 << 20)
    now_s[0] += 10
    bar.update(510 << 20)
    bar.close()
    assert "1.0 MiB/s 8:10 left" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


ROWS = [
    ["node-1", "0123456789abcdef", "127.0.0.1:10000", "yes", "7.0 days"],
    ["日本", "ab", "", "no", "1 day"],
]


@pytest.mark.parametrize("columns", [30, 40, 54, 56, 80, 400])
def test_a_table_fits_its_terminal_and_loses_nothing(columns: int) -> None:
    shown = table(["name", "id", "address", "usable", "expires in"], ROWS, columns=columns)
    assert max(text_width(line) for line in shown.splitlines()) <= columns
    for cell in (cell for row in ROWS for cell in row):
        assert cell in shown


@pytest.mark.full
def test_peers_fit_a_window_of_40_columns(net: Path) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    environment = {name: "" for name in ("COLUMNS", "LINES")}
    process = _start("peers", "--network", str(net), stdout=slave, **environment)
    os.close(slave)
    shown = read_terminal(master)
    os.close(master)
    process.communicate(timeout=60)
    lines = shown.splitlines()
    assert any(line.split() == ["name", "node-3"] for line in lines)
    assert max(map(len, lines)) <= 40


def test_output_that_does_not_fit_a_disk_is_named(net: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = _start("peers", "--network", str(net), stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(b"error: standard output: No space left on device\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.full
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_that_does_not_fit_a_disk_is_named(option: str) -> None:
    with open("/dev/full", "wb") as full:
        process = _start(option, stdout=full, PYTHONUNBUFFERED="1")
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[0]) == (
        1,
        b"error: standard output: No space left on device",
    )


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_help_fits_its_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Its words at least: examples, and tables of the description, are to be copied."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        about, _, _ = capsys.readouterr().out.partition("example:")
        words = [line for line in about.splitlines() if line and not line.startswith((" ", "usage:"))]
        assert max(map(len, words)) <= columns, command


# -- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pign", "node-1"], ["unknown command 'pign'", "did you mean ping?"]),
        (["help"], ["unknown command 'help'", "did you mean mtun --help?"]),
        (["peers", "--network", "{net}", "x"], ["usage: mtun peers", "unexpected argument: x"]),
        (["ping", "NODE-1", "--network", "{net}"], ["did you mean node-1?"]),
        (["network", "{net}/client.toml"], ["client.toml is not a folder"]),
        (["lst"], ["unknown command 'lst'", "the commands are demo, network"]),
        (["ping", "node-1", "--netwrk", "x"], ["unknown option --netwrk", "did you mean --network?"]),
        (["ping", "node-1", "--net", "x"], ["unknown option --net", "did you mean --network?"]),
        (["ping", "node-1", "--network", "x", "--hop=3"], ["unknown option --hop", "did you mean --hops?"]),
        (["--network", "x", "peers"], ["unknown option --network", "mtun COMMAND --network"]),
        (["--jsn", "peers"], ["unknown option --jsn"]),
        (["demo", "--mode", "rote"], ["--mode rote: expected none", "did you mean route?"]),
        (["ping", "node-1", "node-2", "--network", "x"], ["unexpected argument: node-2"]),
        (["ping", "node-1", "--network", "x", "--size", "1.5MB"], ["not a size: '1.5MB'; expected 17, 10k"]),
        (["ping", "node-1", "--network", "x", "--size", "1GB"], ["expected 0 to 1,048,576 bytes"]),
        (["ping", "node-1", "--network"], ["error: --network: expected one argument"]),
        (["ping", "node-1", "--network", "x", "--hops"], ["error: --hops: expected one argument"]),
        (["pipe", "node-1:a", "--network", "x", "--key"], ["error: --key: expected one argument"]),
        (["ping", "node-1"], ["--network --peers --config", "mtun ping --help"]),
        (["ping", "node-1", "mynet"], ["--network --peers --config", "did you mean --network mynet?"]),
        (["peers", "net/client.toml"], ["did you mean --config net/client.toml?"]),
        (["node", "node.toml"], ["required: --config", "did you mean --config node.toml?"]),
        (["publish", "a", "h:1", "node.toml"], ["required: --config", "did you mean --config node.toml?"]),
        (["up", "--network", "mynet"], ["unknown option --network", "did you mean mtun up DIR"]),
        (["ping", "node-1", "--network", "x", "-c", "2"], ["unknown option -c", "--count or --config?"]),
        (["-V"], ["unknown option -V", "did you mean --verbose or --version?"]),
        (["forward", "node-7:ssh", "--network", "x"], ["node-7:ssh: at which local port?"]),
        (["pipe", "127.0.0.1:80", "--network", "x"], ["127.0.0.1 is not a node", "did you mean NODE/127."]),
        (["forward", "1", "localhost:80", "--network", "x"], ["localhost is not a node", "NODE/localhost"]),
        (["publish", "127.0.0.1:80", "web", "--config", "{net}/node-0/node.toml"], ["did you swap"]),
        (["publish", "web", "80", "--config", "{net}/node-0/node.toml"], ['did you mean "127.0.0.1:80"?']),
        (["ping", "nod-1", "--network", "{net}"], ["no peer has the name 'nod-1'", "did you mean node-1?"]),
        (["ping", "alice", "--network", "{net}"], ["hint: list the peers with: mtun peers --network"]),
    ],
    ids=lambda value: " ".join(value[:4]),
)  # fmt: skip
def test_a_mistyped_word_is_named_with_the_nearest(
    net: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    shown = _wrong(capsys, *[argument.format(net=net) for argument in arguments])
    for word in words:
        assert word.format(net=net) in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["ping", "node-1", "--json"],
        ["ping", "--json", "--nonsense"],
        ["ping", "node-9", "--network", "{net}", "--json"],
        ["up", "nowhere", "--json"],
        ["fly", "--json"],
        ["peers", "--network", "{net}", "--json"],
        ["route", "node-1", "--network", "{net}", "--dry-run", "--json"],
        ["demo", "--peers", "2", "--size", "1k", "--json"],
    ],
    ids=" ".join,
)
def test_every_outcome_in_json_has_ok(
    net: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    try:
        status: Any = main([argument.format(net=net) for argument in arguments])
    except SystemExit as ended:
        status = ended.code
    outcome = json.loads(capsys.readouterr().out)
    assert next(iter(outcome)) == "ok"
    assert outcome["ok"] is (status == 0)
    if status:
        assert set(outcome) == {"ok", "error", "hint", "code"}
        assert outcome["error"]


@pytest.mark.parametrize(
    "line",
    ["-v ping a --network b", "ping -v a --network b", "ping a --network b -v", "ping a -v --network b"],
)
def test_verbose_may_stand_anywhere(line: str) -> None:
    options = make_parser().parse_args(line.split())
    assert options.verbose + options.more_verbose == 1
    assert (options.id, str(options.network)) == ("a", "b")


@pytest.mark.parametrize(
    "line", ["get a b --network c", "get --network c a b", "get a --network c b", "get --network=c -v a -- b"]
)
def test_options_may_come_before_between_and_after_arguments(line: str) -> None:
    options = make_parser(["get"]).parse_args(line.split())
    assert (options.id, options.name, str(options.network)) == ("a", "b", "c")


def test_a_network_that_is_down_is_named_in_words(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", "node-1", "--network", str(net), "--hops", "0", "--count", "1"]) == 1
    shown = capsys.readouterr()
    assert shown.out == (
        "1: no answer: could not connect to the destination, node-1: Connection refused (NEXT_REFUSED)\n"
    )
    assert shown.err == (
        f"error: node-1 did not answer\nhint: is the network up? Start it with: mtun up {net}\n"
    )
    for command in (["get", "node-1", "--retries", "0"], ["route", "node-1"], ["bench", "node-1"]):
        assert main([*command, "--network", str(net), "--hops", "1"]) == 1
        shown = capsys.readouterr()
        assert re.match(r"error: could not connect to the first hop, node-[023]: Connection", shown.err)
        assert f"hint: is the network up? Start it with: mtun up {net} (if only" in shown.err
    assert main(["get", "node-1", "--network", str(net), "--hops", "1", "--retries", "0", "--json"]) == 1
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["ok"], outcome["code"]) == (False, "NEXT_REFUSED")
    assert outcome["hint"].startswith("is the network up?")


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (
            {"hop": 1, "code": ErrorCode.NEXT_REFUSED, "about_next": True},
            "node-1 could not connect to node-2 (NEXT_REFUSED at hop 2 of 4 about hop 3 of 4)",
        ),
        (
            {"hop": 0, "code": ErrorCode.BUSY, "text": "1024 streams"},
            "node-0 has no room for more: 1024 streams (BUSY at hop 1 of 4)",
        ),
        (
            {"hop": 2, "code": ErrorCode.BAD_CONTENT, "about_next": True},
            "node-2 received content that is malformed or was changed, and therefore reports node-3 "
            "(BAD_CONTENT at hop 3 of 4 about the destination)",
        ),
        (
            {"hop": 1, "code": ErrorCode.BAD_HEADER, "about_next": True, "text": "the clocks differ"},
            "node-2 could not open the header, as node-1 reports: the clocks differ "
            "(BAD_HEADER at hop 2 of 4 about hop 3 of 4)",
        ),
        (
            {"hop": 3, "code": ErrorCode.SERVICE_FAILED},
            "node-3 could not answer, because its service failed (SERVICE_FAILED at the destination)",
        ),
        ({"hop": 3, "code": None}, "node-3 failed without a reason (no code at the destination)"),
        (
            {"hop": None, "code": None, "suspects": (1, 2)},
            "the report was changed by, or between, hop 2 of 4 (node-1) and hop 3 of 4 (node-2)",
        ),
    ],
)
def test_a_report_in_words_names_the_node_and_its_action(
    net: Path, report: dict[str, Any], words: str
) -> None:
    directory = StaticDirectory()
    PeerFiles(directory, [net / "peers"], tunnel_engine()).load()
    names = PeerNames(directory, (net / "peers",), tunnel_engine())
    route = tuple(names.resolve(f"node-{index}") for index in range(4))
    assert names.in_words(str(Report(route, succeeded=False, **report))) == words


def test_every_code_has_words_that_follow_a_name() -> None:
    for code, row in CODES.items():
        text = str(Report((b"a" * 32, b"b" * 32), False, 0, code, about_next=True))
        assert re.match(f"(61616161|62626262) {row.did.format(next='62626262')}", text)
        assert f"({code.name} at hop 1 of 2 about the destination)" in text


def test_every_command_is_in_the_help_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for name, (_, help_text) in COMMANDS.items():
        assert f"    {name.ljust(len('network'))}  " in shown
        assert help_text.split(",")[0] in " ".join(shown.split())


@pytest.mark.full
def test_one_bad_peer_file_is_one_warning_and_no_error(net: Path, tmp_path: Path) -> None:
    for path in (net / "peers").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "node-9").write_text("\x1b[2Jgarbage\nmore\n")
    (tmp_path / "node-1~").write_text("old")
    status, out, err = _mtun("peers", "--peers", str(tmp_path), "--json")
    assert status == 0
    assert [peer["name"] for peer in json.loads(out)["peers"]] == [f"node-{index}" for index in range(4)]
    assert err.splitlines() == [
        f"warning: {tmp_path / 'node-1~'} looks like the copy that an editor makes, and is skipped",
        f"warning: peers are skipped: {tmp_path / 'node-9'}, line 1: not a descriptor: it is not base64, "
        "and 1 more line",
    ]


# -- signals ---------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGINT, b"error: interrupted\n"),
        (signal.SIGTERM, b"error: ended by SIGTERM\n"),
        (signal.SIGHUP, b"error: ended by SIGHUP\n"),
    ],
)
def test_a_signalled_client_prints_one_line(net: Path, number: signal.Signals, words: bytes) -> None:
    """It pings a stopped network repeatedly; its first line shows that it runs."""
    process = _start("ping", "node-1", "--network", str(net), "--count", "100000")
    assert process.stdout is not None
    assert b"no answer" in process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, words)


@pytest.mark.full
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="the system sends no signal to one thread")
def test_a_signal_that_another_thread_gets_ends_a_command_that_serves(net: Path) -> None:
    """The system chooses the thread, for example after SIGCONT."""
    code = f"""\
import signal, sys, threading
from tunnel.cli.main import main
def send():
    sys.stdin.readline()
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
threading.Thread(target=send).start()
raise SystemExit(main(["forward", "0", "node-1:echo", "--hops", "1", "--network", {str(net)!r}]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"ready: ")
    _, err = process.communicate(b"now\n", timeout=20)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    "command",
    [
        "socks --exit node-1 --listen 0 --hops 1 --network {net}",
        "forward 0 node-1:echo --hops 1 --network {net}",
        "node --config {net}/node-0/node.toml",
    ],
    ids=lambda command: command.split()[0],
)
def test_one_signal_ends_a_serving_command_in_a_pipe_to_head(
    net: Path, command: str, number: signal.Signals
) -> None:
    with _start(*command.format(net=net).split()) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready: ")
        process.stdout.close()  # as `| head -1` does
        process.send_signal(number)
        assert process.wait(timeout=20) == 0


@pytest.mark.full
def test_a_command_that_serves_respects_nohup(net: Path) -> None:
    arguments = "forward", "0", "node-1:echo", "--hops", "1", "--network", str(net)
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-m", "tunnel", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    port = int(process.stdout.readline().split()[1].rpartition(b":")[2])
    process.send_signal(signal.SIGHUP)
    socket.create_connection(("127.0.0.1", port)).close()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0  # not SIGHUP's


_SLOW_IMPORT = """\
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            print("here", flush=True)
            time.sleep(30)
sys.meta_path.insert(0, Slow())
sys.argv = ["mtun", "ping", "node-1", "--network", "net"]
import runpy
runpy.run_module("tunnel", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["tunnel.cli.options", "tunnel.cli.probe", "reactor.core.loop"])
def test_ctrl_c_while_modules_are_loaded_prints_one_line(module: str) -> None:
    code = _SLOW_IMPORT.format(module=module)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"error: interrupted\n")


def test_the_handlers_of_a_program_are_put_back(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert main(["peers", "--network", str(net)]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


UP = "is the network up? Start it with: mtun up net"


@pytest.mark.parametrize(
    ("command", "report", "hint"),
    [
        (
            "ping node-3",
            None,
            f"{UP} (if only that node is down, --ret",
        ),
        ("ping node-3 --hops 0", None, UP),
        ("ping node-3 --retries 1", None, UP),
        ("send file node-3", None, UP),
        (
            "pipe node-3:a",
            None,
            f"{UP} (if only that node is down, try",
        ),
        ("socks --exit node-3", None, UP),
        ("ping node-3", (0, True), "--retries 3 tries other routes"),
        ("bench node-3", (1, True), "--retries 3 tries other routes"),
        ("ping node-3 --retries 1", (0, True), ""),
        ("send file node-3", (0, True), ""),  # it has tried others
        ("pipe node-3:a", (0, True), "try again: each run draws another route"),
        ("forward 1 node-3:a", (0, True), ""),  # each connection tries again
        ("ping node-3", (2, True), "is that node running? Other routes to it end there too"),
        ("ping node-3", (3, False), ""),  # the node itself reports
    ],
)
def test_the_advice_for_a_failed_route_is_one_of_the_command(
    command: str, report: tuple[int, bool] | None, hint: str
) -> None:
    arguments = [*command.split(), "--network", "net"]
    client = Client(make_parser([arguments[0]]).parse_args(arguments))
    route = tuple(bytes([number]) * 32 for number in range(4))
    found = None
    if report is not None:
        hop, about_next = report
        found = Report(route, succeeded=False, hop=hop, code=ErrorCode.NEXT_REFUSED, about_next=about_next)
    shown = client.hint(QueryFailed("no", ErrorCode.NEXT_REFUSED, found))
    assert shown.startswith(hint)
    assert bool(shown) is bool(hint)
    assert ("--retries" in shown) is ("--ret" in hint)
