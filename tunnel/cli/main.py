"""`mtun`: runs one command, from its arguments to an exit status, and turns errors into lines.

An error is one line `error:` on stderr and, if there is advice, a line `hint:` (with the notes of the error).
With --json it is also an object on stdout. The exit status is 0 = done, 1 = failed, 2 = wrong usage, and 128
+ the signal's number if a signal ended the command. A closed output (`mtun peers | head`) counts as SIGPIPE,
without a message.

Rules for changing it: `mtun --version` loads all modules that are imported here, so keep them few. A command
ends with at most two lines, whatever interrupted it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, TextIO

from tunnel import __version__
from tunnel.cli.options import COMMANDS, Parser, UsageError
from tunnel.cli.terminal import (
    STDOUT_NAME,
    complain,
    drop_output,
    lose_stderr,
    prepare_output,
    printable,
    say_all,
    say_json,
)
from tunnel.disk import advice_for, os_error_text
from tunnel.errors import (
    BadRoute,
    ConfigError,
    FilesError,
    KeyFileError,
    MissingLibrary,
    ProfileError,
    QueryFailed,
    SubStreamReset,
    TooManyFiles,
    TunnelError,
)

__all__ = ["main", "make_parser"]

_SIGNALS: dict[int, str] = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "ended by SIGTERM",
    signal.SIGHUP: "ended by SIGHUP",
}
# Errors in an argument, a setting, or a file that one of them names.
_USAGE = BadRoute, ConfigError, KeyFileError, MissingLibrary, ProfileError
_HINTS: dict[type[Exception], str] = {
    ProfileError: "profile `long` holds 126 proxies, `default` and `bulk` 30, `stream` 13, `interactive` 6",
    TooManyFiles: "or use fewer --peers",
}


def make_parser(wanted: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """Make the parser of the command line.

    Args:
        wanted: commands to load; the parser knows only the names of the others.
    """
    parser = Parser(
        prog="mtun",
        description="Multi-hop tunnels: send content through a chain of peers, and receive replies.",
        epilog="`mtun COMMAND --help` shows a command's options and an example.",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more (-vv: everything)")
    parser.add_argument("--version", action="version", version=f"mtun {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {COMMANDS[name][0] for name in wanted if name in COMMANDS}
    for name, (module, help_text) in COMMANDS.items():
        if module not in modules:
            commands.add_parser(name, help=help_text)
        elif name not in commands.choices:  # a module may add two
            importlib.import_module(f"tunnel.cli.{module}").add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status.

    Args:
        arguments: None: those of this process, which then runs only this command.
    Raises:
        SystemExit: with the status, after --help, --version and wrong arguments.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    prepare_output()
    with _signals(as_json=as_json) as signals:
        try:
            try:
                status = _run(given, signals)
            finally:
                # The interpreter would try again at its end, and print a traceback.
                say_all()
        except UsageError as error:
            complain(error.usage.rstrip())
            raise SystemExit(_report(error, as_json=as_json)) from None
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - `_report` raises unknown errors again
            status = _report(error, as_json=as_json)
    if arguments is None:
        # The work is done: Ctrl-C while the interpreter ends needs no traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return status


def _run(given: list[str], signals: _Signals) -> int:
    name = next((argument for argument in given if not argument.startswith("-")), "")
    options = make_parser({name}).parse_args(given)
    verbose = options.verbose + options.more_verbose
    options.verbose = verbose
    _log(verbose, is_for_people=not verbose and options.command not in ("node", "publish", "socks"))
    with signals.raised():
        return int(options.run(options))


def _log(verbose: int, *, is_for_people: bool) -> None:
    level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    form = (
        "%(levelname)s: %(message)s" if is_for_people else "%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    handler = _LogHandler()
    handler.setFormatter(LogFormatter(form, is_for_people=is_for_people))
    if is_for_people:
        handler.addFilter(_concerns_user)
    logging.basicConfig(level=level, handlers=[handler])


class _LogHandler(logging.StreamHandler[TextIO]):
    """Log lines on stderr, as long as there is one."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            lose_stderr(error)
        else:
            super().handleError(record)


def _concerns_user(record: logging.LogRecord) -> bool:
    """Whether a log line is shown by default: errors, and warnings that a user can act on.

    Failures of links are left out, because the result shows them.
    """
    return record.levelno >= logging.ERROR or record.name in (
        "tunnel.front",
        "tunnel.cli",
        "tunnel.running",
        "tunnel.directory",
    )


class LogFormatter(logging.Formatter):
    """Log lines for a terminal: each message is one line, whatever names it contains.

    Args:
        is_for_people: use the form of error lines, "warning: …".
    """

    def __init__(self, form: str, *, is_for_people: bool = False) -> None:
        super().__init__(form)
        self._is_for_people = is_for_people

    def formatMessage(self, record: logging.LogRecord) -> str:
        if self._is_for_people:
            record = logging.makeLogRecord(vars(record) | {"levelname": record.levelname.lower()})
        return printable(super().formatMessage(record))


class _Ended(BaseException):
    """A signal has ended the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Signals:
    """The handlers of SIGINT, SIGTERM and SIGHUP.

    While modules are loaded, a signal ends the process: there is nothing to clean up. While the command runs,
    the first signal raises in the main thread, so that the command cleans up; the second ends the process.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._is_raised = False

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        self._is_raised = True
        try:
            yield
        finally:
            self._is_raised = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_raised:
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt if number == signal.SIGINT else _Ended(number)
        status = _report(_Ended(number), as_json=self._as_json)
        os._exit(status)


@contextlib.contextmanager
def _signals(*, as_json: bool) -> Iterator[_Signals]:
    signals = _Signals(as_json=as_json)
    is_main = threading.current_thread() is threading.main_thread()
    before: dict[int, Any] = {}
    # An ignored signal (SIGHUP under `nohup`) stays ignored.
    for number in _SIGNALS if is_main else ():
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, signals.on_signal)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(error: BaseException, *, as_json: bool) -> int:
    """Print an error and return the exit status. An unexpected error is a bug and is raised again."""
    text, hint, code = str(error), "", None
    if isinstance(error, BrokenPipeError):
        drop_output(sys.stdout)
        return 128 + signal.SIGPIPE
    if isinstance(error, KeyboardInterrupt | _Ended):
        number = error.number if isinstance(error, _Ended) else int(signal.SIGINT)
        status = 128 + number
        text = _SIGNALS[number]
    elif isinstance(error, OSError):
        status, hint = 1, advice_for(error)
        if error.filename == STDOUT_NAME:
            drop_output(sys.stdout)
        if error.strerror:
            text = error.strerror if error.filename is None else os_error_text(error, error.filename)
    elif isinstance(error, TunnelError):
        status = 2 if isinstance(error, _USAGE) else 1
        hint, code = _hint(error), _code(error)
    elif type(error).__name__ == "EngineUnavailable":  # its package takes long to load
        status, hint = 2, "use --engine auto, which chooses an installed library"
    else:
        raise error
    notes = [note for note in getattr(error, "__notes__", ()) if not note.startswith("hint: ")]
    hint = "; ".join([*notes, *([hint] if hint else [])])
    complain("\n".join([f"error: {printable(text)}", *([f"hint: {printable(hint)}"] if hint else [])]))
    if as_json:
        try:
            say_json(False, {"error": text, "hint": hint, "code": code})
        except OSError:
            drop_output(sys.stdout)
    return status


def _code(error: TunnelError) -> str | None:
    """The name of the protocol's code, or of the status of a files service."""
    code = error.status if isinstance(error, FilesError) else getattr(error, "code", None)
    return None if code is None else str(code.name)


def _hint(error: TunnelError) -> str:
    if hint := getattr(error, "hint", ""):
        return str(hint)
    if isinstance(error, QueryFailed | SubStreamReset) and error.code is not None:
        from tunnel.codes import CODES

        return CODES[error.code].advice
    return next((hint for kind, hint in _HINTS.items() if isinstance(error, kind)), "")
