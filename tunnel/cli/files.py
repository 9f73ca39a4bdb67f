"""`mtun send` and `mtun get`: transfer files to and from the files service of another node, through proxies.

`-` stands for standard input or output. A folder is sent as the archive FOLDER.tar, which --extract unpacks.
Both ends compare SHA-256 digests. The command resumes an interrupted transfer over another route; if it
fails, repeat it to continue the transfer.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import select
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from enum import IntEnum
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, TypeAlias, TypeVar

from tunnel.cli.client import Client, add_client_options, add_target, proxies_text, wait
from tunnel.cli.folders import pack_folder, unpack_archive, unreadable_entries
from tunnel.cli.options import MAX_RETRIES, command, count, filled, filled_path, readable_file
from tunnel.cli.terminal import STDOUT_NAME, ProgressBar, complain, printable, readable_size, say, say_json
from tunnel.client import Fetched, Stored, get, list_files, put
from tunnel.client.file_endpoints import keep_as_part, resumable_bytes
from tunnel.config.settings import SECRET_VARIABLE
from tunnel.crypto.primitives import tunnel_engine
from tunnel.disk import naming, rename_new
from tunnel.errors import BadArgument, ConfigError, FilesError, LocalTunnelError
from tunnel.identity.client_key import ClientKey
from tunnel.services import FileStatus, service_prefix
from tunnel.services.file_requests import FileRequest, Operation
from tunnel.services.names import checked_file_name

__all__ = ["add_parser"]

T = TypeVar("T")

_SERVICE = "files"
_REFUSALS = {
    FileStatus.NOT_FOUND: ("{node} has no file {name}", "without NAME, mtun get lists its files"),
    FileStatus.EXISTS: ("{node} already has another {name}", "choose another name with --name"),
    FileStatus.FULL: (
        "{node} has no room for {name}",
        "its owner can raise [files] quota_bytes, file_bytes and files",
    ),
    FileStatus.NAME: ("{node} does not accept the name {name}", "choose another name with --name"),
    FileStatus.CHANGED: ("{name} changed at {node} during the transfer", "repeat the command"),
    FileStatus.DIGEST: ("{name} arrived with a wrong digest", "repeat the command"),
    FileStatus.SIZE: ("{name} arrived with a wrong size", "repeat the command"),
    FileStatus.BUSY: (
        "{node} is receiving the same content, or too many uploads",
        "repeat the command later",
    ),
    FileStatus.DENIED: ("{node} does not allow this client to {verb} files", ""),
    FileStatus.DISK: ("the disk of {node} has failed", "its log has the reason"),
}
"""Text and hint for each refusal of a files service; `_denied_hint` has that of DENIED."""
_STREAM = "-"
_LAST_NAME = "\U0003134a"  # a letter behind those of most names: the list after it is short
_COPY_BYTES = 1 << 20
_MOST_SHOWN = 5
_SEND_EXAMPLE = """\
example:
  mtun send report.pdf node-7 --network mynet
  mtun send report.pdf 4307b306 --peers peers.txt --name r.pdf --hops 10
  mtun send photos node-7 --network mynet         a folder, as photos.tar
  mtun send - node-7 --network mynet --name boot.log   standard input
"""
_GET_EXAMPLE = """\
example:
  mtun get node-7 report.pdf --network mynet
  mtun get node-7 report.pdf --network mynet --output copy.pdf
  mtun get node-7 photos.tar --network mynet --extract
  mtun get node-7 boot.log --network mynet -o -   to standard output
  mtun get node-7 --network mynet                 list the files
"""


def add_parser(commands: Any) -> None:
    """Add both subcommands to the main parser."""
    sender = command(commands, "send", __doc__, _SEND_EXAMPLE, run_send)
    sender.add_argument("file", type=filled, metavar="FILE", help="a file, a folder, or - for standard input")
    add_target(sender)
    sender.add_argument(
        "--name",
        type=filled,
        help="name at the other node (default: the name of the file; FOLDER.tar; stdin)",
    )
    getter = command(commands, "get", __doc__, _GET_EXAMPLE, run_get)
    add_target(getter)
    getter.add_argument(
        "name", type=filled, metavar="NAME", nargs="?", help="the file; without NAME the files are listed"
    )
    getter.add_argument(
        "-o",
        "--output",
        type=filled,
        metavar="PATH",
        help="file or folder, or - for standard output (default: NAME in the current folder)",
    )
    getter.add_argument("--replace", action="store_true", help="replace an existing file")
    getter.add_argument("--extract", action="store_true", help="unpack a tar archive to a new folder")
    for parser in (sender, getter):
        who = parser.add_mutually_exclusive_group()
        who.add_argument(
            "--key",
            type=filled_path,
            metavar="FILE",
            help="a client key from `mtun keygen --client`, if the node serves listed clients only",
        )
        who.add_argument(
            "--secret-file",
            type=filled_path,
            metavar="FILE",
            help=f"a file with the secret of the files service (default: the variable {SECRET_VARIABLE})",
        )
        parser.add_argument(
            "--retries",
            type=count(0, 100),
            default=3,
            metavar="N",
            help="after a failure, resume over another route, up to N times (default 3)",
        )
        add_client_options(parser, timeout_s=86_400.0)


def _client_key(options: argparse.Namespace) -> ClientKey | None:
    """The key that proves this client's right to use the files service; None without one.

    A secret never comes from the command line, which other users can see.

    Raises:
        KeyFileError: as `ClientKey.load`. ConfigError: the variable has no secret.
    """
    if options.key is not None:
        return ClientKey.load(options.key)
    if options.secret_file is not None:
        return ClientKey.load_secret(options.secret_file)
    secret = os.environ.get(SECRET_VARIABLE)
    if not secret:
        return None
    if os.path.isfile(secret):
        raise ConfigError(
            f"environment: {SECRET_VARIABLE} is the name of a file, and not a secret",
            f"give --secret-file {shlex.quote(secret)} instead",
        )
    try:
        return ClientKey.of_secret(secret.strip())
    except BadArgument as error:
        raise ConfigError(
            f"environment: {SECRET_VARIABLE}: {str(error).removeprefix('secret: ')}",
            "set it to the secret itself",
        ) from error


def run_send(options: argparse.Namespace) -> int:
    """Send a file. Returns the exit status."""
    limit, client_key = _TimeLimit(options.timeout), _client_key(options)
    write, name = _source(options, limit)
    with contextlib.ExitStack() as stack:
        # Closed after the client, whose threads may still read it.
        spool = None if write is None else stack.enter_context(tempfile.TemporaryFile())
        moving = stack.enter_context(
            _resumable(lambda moved: "the node keeps the received part for a day" if moved else "")
        )
        client = stack.enter_context(Client(options))
        destination, hops = _destination(client, options, options.file), client.hops()
        source: Path | BinaryIO = Path(options.file)
        if write is not None and spool is not None:
            _check_answers(client, destination, hops, options.retries, limit)
            source = _filled(spool, write, limit)
        stack.enter_context(_in_words(options, client.names.name(destination), "store", name))
        stored: Stored = _run(
            options,
            lambda progress: put(
                client.node,
                destination,
                source,
                name,
                progress=progress,
                service=_SERVICE,
                client_key=client_key,
                retries=options.retries,
                hops=hops,
            ),
            moving,
            limit.spent_s,
        )
    text = f"{stored.name}: {readable_size(stored.size)} stored at {options.id}, sent {proxies_text(hops)}"
    _say(options, stored, stored.sent_bytes, hops, text)
    return 0


_Writer: TypeAlias = "Callable[[BinaryIO, _TimeLimit], None]"


def _source(options: argparse.Namespace, limit: _TimeLimit) -> tuple[_Writer | None, str]:
    """Check the content to send, before the network is used.

    Returns:
        The function that writes the content to a temporary file (None for a file, which is sent directly),
        and the name at the other node.
    Raises:
        ConfigError: it cannot be sent, or its name is invalid.
    """
    path = Path(options.file)
    if options.file == _STREAM:
        if sys.stdin is None:
            raise ConfigError("standard input is closed", "name a file, or connect a pipe")
        return _write_standard_input, _checked_name(options.name or "stdin")
    if path.is_dir():
        name = _checked_name(options.name or f"{Path(os.path.abspath(path)).name or 'root'}.tar")
        _check_readable(path, limit)
        return partial(_write_archive, path), name
    try:
        readable_file(path).close()
    except ConfigError as error:
        raise ConfigError(str(error), error.hint or _file_hint(path, options.id)) from error
    return None, _checked_name(options.name or path.name)


def _check_readable(folder: Path, limit: _TimeLimit) -> None:
    """Refuse a folder with entries that this user cannot read.

    An archive without them would look complete at the other node, and its name would be taken there.
    """
    found = unreadable_entries(folder, limit.check)
    if found:
        more = f", and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        count = "1 entry" if len(found) == 1 else f"{len(found)} entries"
        raise ConfigError(
            f"{folder}: {count} cannot be read: {', '.join(found[:_MOST_SHOWN])}{more}",
            "nothing was sent: let this user read them, or move them out of the folder",
        )


def _check_answers(client: Client, destination: bytes, hops: int, retries: int, limit: _TimeLimit) -> None:
    """Check before a long preparation that the node and its files service answer.

    Raises:
        QueryFailed: they do not answer. Any reply counts, since the service may not allow lists.
    """
    short_list = service_prefix(_SERVICE) + FileRequest(Operation.LIST, _LAST_NAME).pack()
    query = client.node.query(destination, short_list, hops=hops, retries=min(retries, MAX_RETRIES))
    wait(query, limit.limit_s, limit.spent_s).close()


class _TimeLimit:
    """The time limit of a command, counted from its start."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._began_s = monotonic()

    @property
    def spent_s(self) -> float:
        return monotonic() - self._began_s

    @property
    def left_s(self) -> float:
        return max(0.0, self.limit_s - self.spent_s)

    def check(self) -> None:
        """Raises LocalTunnelError: the time is over while the content is still being read."""
        if not self.left_s:
            raise LocalTunnelError(
                f"the content was not read within {self.limit_s:g} s (--timeout); nothing was sent",
                "give a longer --timeout",
            )


class _Spool:
    """A temporary file that is filled within a time limit. `tarfile` needs these two methods."""

    def __init__(self, file: BinaryIO, limit: _TimeLimit) -> None:
        self.tell = file.tell
        self._write = file.write
        self._limit = limit

    def write(self, data: bytes) -> int:
        self._limit.check()
        return self._write(data)


def _filled(file: BinaryIO, write: _Writer, limit: _TimeLimit) -> BinaryIO:
    """The temporary file with the whole content: size and digest are announced before the first byte."""
    spool: BinaryIO = _Spool(file, limit)  # type: ignore[assignment]
    with naming(Path(tempfile.gettempdir())):
        write(spool, limit)
        file.flush()
    return file


def _write_standard_input(file: BinaryIO, limit: _TimeLimit) -> None:
    source = sys.stdin.buffer
    while data := _next_piece(source, limit):
        file.write(data)


def _next_piece(source: BinaryIO, limit: _TimeLimit) -> bytes:
    """What standard input has now; waits for it only as long as there is time."""
    with contextlib.suppress(io.UnsupportedOperation):  # no descriptor: it does not wait
        select.select([source.fileno()], [], [], limit.left_s)
    limit.check()
    data: bytes = source.read1(_COPY_BYTES)  # type: ignore[attr-defined]
    return data


def _write_archive(folder: Path, file: BinaryIO, limit: _TimeLimit) -> None:
    for skipped in pack_folder(folder, file):
        complain(f"skipped {printable(skipped)}")


def _file_hint(path: Path, node: str) -> str:
    """The hint for a file that cannot be opened."""
    if os.path.exists(path):
        return f"send its content: mtun send - {shlex.quote(node)} < {shlex.quote(str(path))}"
    if node and os.path.exists(node):
        return _swapped("send", node, str(path))
    return "FILE is a file, a folder, or - for standard input"


def _swapped(*words: str) -> str:
    return f"did you swap two arguments? mtun {shlex.join(words)}"


def _destination(client: Client, options: argparse.Namespace, other: str | None) -> bytes:
    """The id of the node that the user names.

    Args:
        other: the argument beside it, for the hint when the two are swapped.
    Raises:
        ConfigError: as `resolve`.
    """
    try:
        return client.names.resolve(options.id)
    except ConfigError as error:
        if other is not None and client.names.knows(other):
            raise ConfigError(str(error), _swapped(options.command, other, options.id)) from error
        raise


class _Refused(FilesError):
    """A files service has refused a command. `hint` is the remedy, for people."""

    def __init__(self, text: str, status: IntEnum, hint: str) -> None:
        super().__init__(text, status)
        self.hint = hint


@contextlib.contextmanager
def _in_words(options: argparse.Namespace, node: str, verb: str, name: str) -> Iterator[None]:
    """Translate a refusal of the files service into the terms of the user's command."""
    try:
        yield
    except FilesError as error:
        text, hint = _REFUSALS[FileStatus(error.status)]
        if error.status is FileStatus.DENIED:
            hint = _denied_hint(options)
        raise _Refused(text.format(node=node, verb=verb, name=name), error.status, hint) from error


def _denied_hint(options: argparse.Namespace) -> str:
    if options.key is not None:
        public = ClientKey.load(options.key).public(tunnel_engine()).hex()
        return f"ask its owner to list your public key in [files] read, write or list: {public}"
    if options.secret_file is not None or os.environ.get(SECRET_VARIABLE):
        return "the owner has set a different secret, or allows no secret for this operation"
    return (
        "its owner may allow it to listed clients, or with a secret: give --key FILE, --secret-file FILE or "
        f"the variable {SECRET_VARIABLE}"
    )


def _checked_name(name: str) -> str:
    try:
        return checked_file_name(name)
    except LocalTunnelError as error:
        raise ConfigError(str(error), "choose another name with --name") from error


def run_get(options: argparse.Namespace) -> int:
    """Fetch a file, or list the files. Returns the exit status."""
    client_key = _client_key(options)
    if options.name is None:
        return _list(options, client_key)
    target, path = _target(options)
    with _resumable(lambda _: _left(path)) as moving, Client(options) as client:
        destination, hops = _destination(client, options, options.name), client.hops()
        with (
            _in_words(options, client.names.name(destination), "fetch", options.name),
            naming(Path(STDOUT_NAME)) if path is None else contextlib.nullcontext(),
        ):
            fetched: Fetched = _run(
                options,
                lambda progress: get(
                    client.node,
                    destination,
                    options.name,
                    target,
                    progress=progress,
                    replace=options.replace or options.extract,
                    service=_SERVICE,
                    client_key=client_key,
                    retries=options.retries,
                    hops=hops,
                ),
                moving,
            )
    if options.extract and path is not None:
        _extract(path, _extracted(options), options.name)
    text = f"{fetched.name}: {readable_size(fetched.size)} fetched {proxies_text(hops)}"
    _say(options, fetched, fetched.received_bytes, hops, text)
    return 0


def _list(options: argparse.Namespace, client_key: ClientKey | None) -> int:
    if options.output is not None or options.extract or options.replace:
        raise ConfigError(
            "--output, --replace and --extract need a NAME", "without NAME, get lists the files"
        )
    with Client(options) as client:
        destination, hops = _destination(client, options, None), client.hops()
        listing = list_files(
            client.node,
            destination,
            service=_SERVICE,
            client_key=client_key,
            retries=options.retries,
            hops=hops,
        )
        name = client.names.name(destination)
        with _in_words(options, name, "list", ""):
            entries = wait(listing, options.timeout)
    if options.json:
        listed = [{"name": entry.name, "size": entry.size} for entry in entries]
        say_json(True, {"hops": hops, "files": listed}, indent=1)
        return 0
    for entry in entries:
        say(f"{entry.size:>14,}  {entry.name}")
    if not entries:
        complain(f"{name} has no files")
    return 0


def _target(options: argparse.Namespace) -> tuple[Path | BinaryIO, Path | None]:
    """The target of a fetched file, and its path if it has one.

    Raises:
        ConfigError: it exists or is not possible, or options exclude each other.
    """
    try:
        options.name = checked_file_name(options.name)
    except LocalTunnelError as error:
        raise ConfigError(str(error), "mtun get without NAME lists the files") from error
    if options.output == _STREAM:
        for given, what in ((options.json, "--json"), (options.extract, "--extract")):
            if given:
                raise ConfigError(
                    f"{what} excludes --output -", "with --output - only the file goes to standard output"
                )
        if sys.stdout is None:
            raise ConfigError("standard output is closed", "name a file with --output")
        return sys.stdout.buffer, None
    if options.extract:
        folder = _extracted(options)
        if os.path.lexists(folder):
            raise ConfigError(
                f"{folder} exists, and --extract replaces no folder", "name another folder with --output"
            )
        _check_folder(folder.parent)
        path = folder.with_name(f".{folder.name}.tar.fetched")
        if path.is_file() and not path.is_symlink():
            keep_as_part(path)  # fetched before, by a command that did not come to unpack it
        return path, path
    path = Path(options.name if options.output is None else options.output)
    if path.is_dir() and options.output is not None:
        path /= options.name
    elif options.output is not None and options.output.endswith("/"):
        _check_folder(path)
    _check_folder(path.parent)
    if os.path.lexists(path) and not options.replace:
        raise ConfigError(f"{path} exists", "replace it with --replace, or name another place with --output")
    return path, path


def _check_folder(path: Path) -> None:
    if path.is_dir():
        return
    if os.path.lexists(path):
        raise ConfigError(f"{path} is not a folder", "name a file or an existing folder with --output")
    raise ConfigError(f"no such folder: {path}", f"make the folder: mkdir -p {shlex.quote(str(path))}")


def _extracted(options: argparse.Namespace) -> Path:
    """The folder into which an archive is unpacked."""
    name = options.name.removesuffix(".tar")
    path = Path(name if options.output is None else options.output)
    if options.output is not None and path.is_dir():
        path /= name
    return path if path.name else Path(name)


def _extract(archive: Path, folder: Path, name: str) -> None:
    """Unpack a fetched archive and remove it. If that fails, it is kept, and the error shows where."""
    kept = f"the archive is kept as {archive}; the same command unpacks it and fetches nothing again"
    try:
        for skipped in unpack_archive(archive, folder):
            complain(f"skipped {printable(skipped)}")
    except LocalTunnelError as error:
        failure = LocalTunnelError(f"{name}: {error}")
        failure.add_note(
            f"the archive is kept as {_visible(archive, folder.parent / name)}, as without --extract"
        )
        raise failure from error
    except FileExistsError as error:
        failure = LocalTunnelError(f"{folder} appeared meanwhile, and --extract replaces no folder")
        failure.add_note(f"move it away; {kept}")
        raise failure from error
    except BaseException as error:
        error.add_note(kept)
        raise
    archive.unlink(missing_ok=True)  # another command may unpack it too


def _visible(archive: Path, place: Path) -> Path:
    """Give a fetched file the name that the user knows, if that is free. Returns its path."""
    try:
        rename_new(archive, place)
    except OSError:
        return archive
    return place


def _left(path: Path | None) -> str:
    """The amount that an interrupted transfer has kept, for people."""
    with contextlib.suppress(OSError):
        if path is not None and (count := resumable_bytes(path)):
            return f"{readable_size(count)} are kept beside the target"
    return ""


@contextlib.contextmanager
def _resumable(kept: Callable[[list[int]], str]) -> Iterator[list[int]]:
    """Note on an interrupting error that the transfer can be resumed. `main` shows the note as the hint.

    This is the outermost context, since `Client` replaces some errors.

    Args:
        kept: takes the value below and describes the kept part, also of an earlier transfer. Empty: none.
    Returns:
        A context manager. Its value is for `_run`, and empty until bytes have moved.
    """
    moved: list[int] = []
    try:
        yield moved
    except (FilesError, LocalTunnelError):
        raise  # the same command would end the same way
    except BaseException as error:
        if what := kept(moved):
            error.add_note(f"{what}; the same command resumes the transfer")
        raise


def _run(
    options: argparse.Namespace,
    start: Callable[[Callable[[int, int], None]], Future[T]],
    moved: list[int],
    spent_s: float = 0.0,
) -> T:
    """Run a transfer with a progress bar.

    Args:
        moved: gets the number of bytes moved so far. spent_s: of the time limit, before.
    """
    bar: ProgressBar | None = None

    def progress(done: int, size: int) -> None:
        nonlocal bar
        if bar is None:
            bar = ProgressBar(size, enabled=not options.json)
        if done:
            moved[:] = [done]
        bar.update(done)

    try:
        return wait(start(progress), options.timeout, spent_s)
    finally:
        if bar is not None:
            bar.close()


def _say(options: argparse.Namespace, done: Stored | Fetched, moved_bytes: int, hops: int, text: str) -> None:
    if options.json:
        outcome = {
            "hops": hops,
            "name": done.name,
            "bytes": done.size,
            "moved_bytes": moved_bytes,
            "sha256": done.digest.hex(),
            "attempts": done.attempts,
        }
        say_json(True, outcome)
        return
    resumed = ""
    if moved_bytes < done.size:
        resumed = (
            f" ({readable_size(moved_bytes)} of them moved now)" if moved_bytes else " (all stored before)"
        )
    show = complain if getattr(options, "output", None) == _STREAM else say
    show(f"{text}{resumed}, sha256 {done.digest.hex()}")
