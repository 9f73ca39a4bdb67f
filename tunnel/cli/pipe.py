"""`mtun pipe`: connects standard input and output to a service, for `ssh -o ProxyCommand` and scripts.

A thread reads the input, because a file, a terminal and a pipe all block. The end of the input ends that
direction only; the answer can still arrive. The end of the answer closes the output. The command then waits
for the end of its input; on a terminal it ends immediately.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import signal
import sys
import threading
from typing import Any

from tunnel.cli.client import Client, add_hops, add_source
from tunnel.cli.options import command, filled, filled_path, seconds
from tunnel.cli.terminal import STDOUT_NAME
from tunnel.client.clients import Client as ThreadClient
from tunnel.client.clients import ThreadStream
from tunnel.errors import BadArgument, ConfigError, QueryFailed, SubStreamReset, TunnelError
from tunnel.established import TargetKind
from tunnel.front.failures import end_of, failure_of
from tunnel.front.targets import parse_destination
from tunnel.identity.client_key import ClientKey

__all__ = ["add_key", "add_parser", "destination"]

_PIPE = """\
Connect standard input and output to a service that a node publishes, or to HOST:PORT behind an exit.

The end of the input ends that direction only; the answer can still arrive. The command ends when both
directions have ended.
"""
_PIPE_EXAMPLE = """\
example:
  mtun pipe node-7:ssh --network mynet
  ssh -o ProxyCommand='mtun pipe node-7:ssh --network mynet' user@node-7
  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | mtun pipe node-7/127.0.0.1:8080 --network mynet
"""
_READ_BYTES = 65_536
_OPEN_S = 20.0
_STDIN_NAME = "standard input"


def add_parser(commands: Any) -> None:
    """Add the subcommand to the main parser."""
    parser = command(commands, "pipe", _PIPE, _PIPE_EXAMPLE, run_pipe, has_json=False)
    parser.add_argument(
        "to",
        type=filled,
        metavar="TO",
        help="NODE:SERVICE for a published service, NODE/HOST:PORT for a target behind an exit",
    )
    add_key(parser)
    add_source(parser, opens_tunnels=True)
    add_hops(parser)
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=_OPEN_S,
        metavar="S",
        help=f"time limit in seconds for the tunnel, and again for the target's answer (default {_OPEN_S:g})",
    )


def add_key(parser: argparse.ArgumentParser) -> None:
    """Add the option for the client key."""
    parser.add_argument(
        "--key",
        type=filled_path,
        metavar="FILE",
        help="a client key from `mtun keygen --client`, for a service that lists its clients",
    )


def destination(text: str) -> tuple[str, Any]:
    """The node and the target that an argument names. Raises ConfigError: it names none."""
    try:
        node, target = parse_destination(text)
    except BadArgument as error:
        raise ConfigError(f"{text}: {error}", "for example node-7:ssh, or node-7/intranet:80") from error
    if target.kind is TargetKind.SERVICE and re.fullmatch(r"localhost|[\d.]+\.\d+|\[.*\]", node):
        raise ConfigError(f"{text}: {node} is not a node", f"did you mean NODE/{text}, through an exit?")
    return node, target


def run_pipe(options: argparse.Namespace) -> int:
    """Copy until both directions have ended. Returns the exit status."""
    node, target = destination(options.to)
    key = None if options.key is None else ClientKey.load(options.key)
    for standard, name in ((sys.stdin, _STDIN_NAME), (sys.stdout, STDOUT_NAME)):
        if standard is None:
            raise ConfigError(f"{name} is closed", "redirect it to a file or a pipe, such as /dev/null")
    # `ssh` sends SIGHUP to its ProxyCommand when it is done. That is not an error.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with Client(options) as client:
        client.check_opens_tunnels("[[forward]]")
        asking = ThreadClient(client.node)
        exit_id = client.names.resolve(node)
        try:
            with (
                asking.tunnel(exit_id, hops=client.hops(), timeout_s=options.timeout) as tunnel,
                tunnel.open(target, client_key=key, timeout_s=options.timeout) as stream,
            ):
                _join(stream)
        except SubStreamReset as error:
            failed = failure_of(error, end_of(target))
            raise QueryFailed(failed.text, failed.code, hint=failed.hint) from error
    return 0


def _join(stream: ThreadStream) -> None:
    """Copy in both directions. Raises the error of the input, or of the output."""
    sending = _Sending(stream)
    try:
        _copy_out(stream)
        if not sys.stdin.isatty():
            sending.join()
    except TunnelError:
        if sending.error is None:  # otherwise the input failed first, and reset the stream
            raise
    if sending.error is not None:
        raise sending.error


class _Sending:
    """A thread that copies standard input to the stream."""

    def __init__(self, stream: ThreadStream) -> None:
        self.error: Exception | None = None
        self._stream = stream
        self._thread = threading.Thread(target=self._run, name="standard input", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the input has ended, or the other end stops reading."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while data := _read_input():
                self._stream.write(data)
            self._stream.close()
        except TunnelError:
            pass  # the reading half raises the reason, unless the other end just stopped reading
        except Exception as error:  # noqa: BLE001 - raised by the command
            if isinstance(error, OSError):
                error.filename = _STDIN_NAME
            self.error = error
            self._stream.give_up()


def _read_input() -> bytes:
    """The next bytes of standard input; b"" at its end."""
    while True:
        try:
            return os.read(sys.stdin.fileno(), _READ_BYTES)
        except BlockingIOError:  # another program with this terminal or pipe made it non-blocking
            select.select([sys.stdin], [], [])


def _copy_out(stream: ThreadStream) -> None:
    """Write what arrives to standard output, and close that at the end."""
    out = sys.stdout.fileno()
    while data := stream.read():
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(out, view) :]
            except BlockingIOError:
                select.select([], [out], [])
            except OSError as error:
                error.filename = STDOUT_NAME
                raise
    # The reader sees the end now, although this process still runs. The descriptor stays in use.
    with contextlib.closing(open(os.devnull, "wb")) as nowhere:
        os.dup2(nowhere.fileno(), out)
