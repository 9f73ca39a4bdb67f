"""`mtun send` and `mtun get`: files to and from the files service of another node, through proxies.

`-` stands for standard input or output. A folder is sent as the archive FOLDER.tar, which --extract unpacks.
Both ends compare SHA-256 digests. An interrupted transfer resumes over another route, within the command and
with the next one for the same file.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tunnel.cli.client import Client, add_client_options, add_target, proxies_text, wait
from tunnel.cli.folders import pack_folder, unpack_archive
from tunnel.cli.options import command, count, filled, readable_file
from tunnel.cli.terminal import STDOUT_NAME, ProgressBar, complain, readable_size, say, say_json
from tunnel.client import Fetched, Stored, get, list_files, put
from tunnel.client.file_endpoints import resumable_bytes
from tunnel.disk import naming
from tunnel.errors import ConfigError, FilesError, LocalTunnelError
from tunnel.services import FileStatus
from tunnel.services.names import checked_file_name

__all__ = ["add_parser"]

T = TypeVar("T")

_SERVICE = "files"
_REFUSALS = {
    FileStatus.NOT_FOUND: ("{node} has no file {name}", "without NAME, mtun get lists its files"),
    FileStatus.EXISTS: ("{node} already has another {name}", "give this one another --name"),
    FileStatus.FULL: (
        "{node} has no room for {name}",
        "its owner can raise [files] quota_bytes, file_bytes and files",
    ),
    FileStatus.NAME: ("{node} does not take the name {name}", "give another --name"),
    FileStatus.CHANGED: ("{name} has changed at {node} meanwhile", "repeat the command"),
    FileStatus.DIGEST: ("{name} arrived with other content than was announced", "repeat the command"),
    FileStatus.SIZE: ("{name} arrived with another size than was announced", "repeat the command"),
    FileStatus.BUSY: ("{node} receives the same content, or too much, already", "repeat the command later"),
    FileStatus.DENIED: (
        "{node} does not let others {verb} files",
        "its owner decides this: [files] may_get, may_put, may_list",
    ),
    FileStatus.DISK: ("the disk of {node} has failed", "its log has the reason"),
}
"""Text and hint for each refusal of a files service."""
_STREAM = "-"
_COPY_BYTES = 1 << 20
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
        help="under which it is kept there (default: that of the file; FOLDER.tar; stdin)",
    )
    getter = command(commands, "get", __doc__, _GET_EXAMPLE, run_get)
    add_target(getter)
    getter.add_argument(
        "name", type=filled, metavar="NAME", nargs="?", help="of the file; without: list them"
    )
    getter.add_argument(
        "-o",
        "--output",
        type=filled,
        metavar="PATH",
        help="file or folder, or - for standard output (default: NAME, here)",
    )
    getter.add_argument("--replace", action="store_true", help="also where a file is already")
    getter.add_argument("--extract", action="store_true", help="unpack a tar archive to a new folder")
    for parser in (sender, getter):
        parser.add_argument("--retries", type=count(0, 100), default=3, metavar="N", help="(default 3)")
        add_client_options(parser, timeout_s=86_400.0)


def run_send(options: argparse.Namespace) -> int:
    """Send a file. Returns the exit status."""
    with contextlib.ExitStack() as stack:
        source, name = _source(options, stack)
        moving = stack.enter_context(
            _resumable(lambda moved: "what has arrived is kept there for a while" if moved else "")
        )
        client = stack.enter_context(Client(options))
        destination, hops = _destination(client, options, options.file), client.hops()
        stack.enter_context(_in_words(client.names.name(destination), "store", name))
        stored: Stored = _run(
            options,
            lambda progress: put(
                client.node,
                destination,
                source,
                name,
                progress=progress,
                service=_SERVICE,
                retries=options.retries,
                hops=hops,
            ),
            moving,
        )
    text = f"{stored.name}: {readable_size(stored.size)} are at {options.id}, sent {proxies_text(hops)}"
    _say(options, stored, stored.sent_bytes, hops, text)
    return 0


def _source(options: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[Path | BinaryIO, str]:
    """The content to send, and its name there. Temporary files are closed with the stack.

    Raises:
        ConfigError: it cannot be sent, or its name is invalid. FileChanged, OSError: reading it failed.
    """
    path = Path(options.file)
    if options.file == _STREAM:
        name = _checked_name(options.name or "stdin")
        return _spooled(_standard_input, stack), name
    if path.is_dir():
        name = _checked_name(options.name or f"{Path(os.path.abspath(path)).name or 'root'}.tar")
        return _spooled(lambda file: _pack(path, file), stack), name
    try:
        readable_file(path).close()  # found out before a network is looked for
    except ConfigError as error:
        raise ConfigError(str(error), error.hint or _file_hint(path, options.id)) from error
    return path, _checked_name(options.name or path.name)


def _file_hint(path: Path, node: str) -> str:
    """What to do about a file that cannot be opened."""
    if os.path.exists(path):
        return f"send what it gives: mtun send - {shlex.quote(node)} < {shlex.quote(str(path))}"
    if node and os.path.exists(node):
        return _swapped("send", node, str(path))
    return "FILE is a file, a folder, or - for standard input"


def _swapped(*words: str) -> str:
    return f"did you swap two arguments? mtun {shlex.join(words)}"


def _destination(client: Client, options: argparse.Namespace, other: str | None) -> bytes:
    """The node that the user names. Args: other: the argument beside it, which may be the node in fact.

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
    """A files service has refused a command. hint: what to do."""

    def __init__(self, text: str, status: IntEnum, hint: str) -> None:
        super().__init__(text, status)
        self.hint = hint


@contextlib.contextmanager
def _in_words(node: str, verb: str, name: str) -> Iterator[None]:
    """A refusal of the files service, in terms of the user's command instead of the service's protocol."""
    try:
        yield
    except FilesError as error:
        text, hint = _REFUSALS[FileStatus(error.status)]
        raise _Refused(text.format(node=node, verb=verb, name=name), error.status, hint) from error


def _checked_name(name: str) -> str:
    try:
        return checked_file_name(name)
    except LocalTunnelError as error:
        raise ConfigError(str(error), "--name gives it another name there") from error


def _spooled(write: Callable[[BinaryIO], None], stack: contextlib.ExitStack) -> BinaryIO:
    """A temporary file with all of it: size and digest are announced before the first byte."""
    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the stack
    with naming(Path(tempfile.gettempdir())):
        write(file)
        file.flush()
    return file


def _standard_input(file: BinaryIO) -> None:
    if sys.stdin is None:
        raise ConfigError("standard input is closed", "name a file, or pipe one in")
    shutil.copyfileobj(sys.stdin.buffer, file, _COPY_BYTES)


def _pack(folder: Path, file: BinaryIO) -> None:
    for skipped in pack_folder(folder, file):
        complain(f"skipped {skipped}")


def run_get(options: argparse.Namespace) -> int:
    """Get a file, or list what there is. Returns the exit status."""
    if options.name is None:
        return _list(options)
    target, path = _target(options)
    with _resumable(lambda _: _left(path)) as moving, Client(options) as client:
        destination, hops = _destination(client, options, options.name), client.hops()
        with (
            _in_words(client.names.name(destination), "fetch", options.name),
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
                    retries=options.retries,
                    hops=hops,
                ),
                moving,
            )
    if options.extract and path is not None:
        _extract(path, _extracted(options), options.name)
    text = f"{fetched.name}: {readable_size(fetched.size)} are here, fetched {proxies_text(hops)}"
    _say(options, fetched, fetched.received_bytes, hops, text)
    return 0


def _list(options: argparse.Namespace) -> int:
    if options.output is not None or options.extract or options.replace:
        raise ConfigError(
            "--output, --replace and --extract belong to a NAME", "without NAME, get lists files"
        )
    with Client(options) as client:
        destination, hops = _destination(client, options, None), client.hops()
        listing = list_files(client.node, destination, service=_SERVICE, retries=options.retries, hops=hops)
        name = client.names.name(destination)
        with _in_words(name, "list", ""):
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
        ConfigError: it is taken or not possible, or options exclude each other.
    """
    try:
        options.name = checked_file_name(options.name)
    except LocalTunnelError as error:
        raise ConfigError(str(error), "mtun get without NAME lists the names that are there") from error
    if options.output == _STREAM:
        for given, what in ((options.json, "--json"), (options.extract, "--extract")):
            if given:
                raise ConfigError(
                    f"{what} does not go with --output -", "standard output is for the file alone"
                )
        if sys.stdout is None:
            raise ConfigError("standard output is closed", "--output names a file")
        return sys.stdout.buffer, None
    if options.extract:
        folder = _extracted(options)
        if os.path.lexists(folder):
            raise ConfigError(f"{folder} exists", "--output names another folder; --extract replaces nothing")
        _check_folder(folder.parent)
        path = folder.with_name(f".{folder.name}.tar.fetched")
        return path, path
    path = Path(options.name if options.output is None else options.output)
    if path.is_dir() and options.output is not None:
        path /= options.name
    elif options.output is not None and options.output.endswith("/"):
        _check_folder(path)
    _check_folder(path.parent)
    if os.path.lexists(path) and not options.replace:
        raise ConfigError(f"{path} exists", "--replace replaces it, --output names another place")
    return path, path


def _check_folder(path: Path) -> None:
    if path.is_dir():
        return
    if os.path.lexists(path):
        raise ConfigError(f"{path} is not a folder", "--output names a file, or a folder that is there")
    raise ConfigError(f"no such folder: {path}", f"make it first: mkdir -p {shlex.quote(str(path))}")


def _extracted(options: argparse.Namespace) -> Path:
    """The folder that an archive becomes."""
    name = options.name.removesuffix(".tar")
    path = Path(name if options.output is None else options.output)
    if options.output is not None and path.is_dir():
        path /= name
    return path if path.name else Path(name)


def _extract(archive: Path, folder: Path, name: str) -> None:
    try:
        for skipped in unpack_archive(archive, folder):
            complain(f"skipped {skipped}")
    except LocalTunnelError as error:
        failure = LocalTunnelError(f"{name}: {error}")
        failure.add_note("without --extract it is fetched as it is")
        raise failure from error
    finally:
        archive.unlink()


def _left(path: Path | None) -> str:
    """What an interrupted transfer has left, for people."""
    with contextlib.suppress(OSError):
        if path is not None and (count := resumable_bytes(path)):
            return f"{readable_size(count)} are kept beside the target"
    return ""


@contextlib.contextmanager
def _resumable(kept: Callable[[list[int]], str]) -> Iterator[list[int]]:
    """Add a note to an error that interrupts a transfer: it can be resumed. `main` shows it as the hint.

    The outermost context, since `Client` replaces some errors.

    Args:
        kept: describes what is kept, also of an earlier transfer; empty: nothing. Takes the value.
    Returns:
        A context manager; its value is for `_run`, and empty as long as nothing has moved.
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
    options: argparse.Namespace, start: Callable[[Callable[[int, int], None]], Future[T]], moved: list[int]
) -> T:
    """Run a transfer with a progress bar. moved: gets the number of bytes moved so far."""
    bar: ProgressBar | None = None

    def progress(done: int, size: int) -> None:
        nonlocal bar
        if bar is None:
            bar = ProgressBar(size, enabled=not options.json)
        if done:
            moved[:] = [done]
        bar.update(done)

    try:
        return wait(start(progress), options.timeout)
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
            f" ({readable_size(moved_bytes)} of them moved now)" if moved_bytes else " (all of it was there)"
        )
    show = complain if getattr(options, "output", None) == _STREAM else say
    show(f"{text}{resumed}, sha256 {done.digest.hex()}")
