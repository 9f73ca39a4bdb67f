"""A document and its reader, who pastes the commands into terminals."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.support.servers import TIMEOUT_S, free_port, wait_for_port

__all__ = ["Terminals", "code_blocks", "section"]

_RUNS_ON = re.compile(r"mtun (up|socks|forward|publish) ")
_WEB_SERVER = re.compile(r"python3 -m http\.server (\d+)( .*)? &")
_SOCKS_PORT = 1080


def section(page: str, title: str) -> str:
    """The text below a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def code_blocks(page: str, title: str, language: str) -> list[str]:
    """The blocks of a language in a section."""
    return re.findall(rf"^```{language}\n(.*?)^```", section(page, title), re.MULTILINE | re.DOTALL)


class Terminals:
    """Terminals in one folder, with `mtun` of this checkout.

    A line that begins with `mtun up`, `socks`, `forward` or `publish` is a terminal of its own; the next line
    waits until it is ready.

    Args:
        ports: what stands for each port of the document; a free one for those with None.
        adapt: replaces other things in its code, such as names of hosts.
    """

    def __init__(
        self,
        folder: Path,
        ports: Mapping[int, int | None],
        adapt: Callable[[str], str] = lambda text: text,
    ) -> None:
        self.folder = folder
        self._adapt = adapt
        self.ports = {number: free_port() if port is None else port for number, port in ports.items()}
        self._programs = folder / "bin"
        self._programs.mkdir()
        self.install("mtun", f"exec {sys.executable} -m tunnel")

    def install(self, name: str, command: str) -> None:
        """Put a program in front of the others of the system."""
        path = self._programs / name
        path.write_text(f'#!/bin/sh\n{command} "$@"\n')
        path.chmod(0o755)

    def paste(self, text: str, stack: ExitStack) -> str:
        """Run a block. Returns the output of what ends; what runs on is stopped by the stack."""
        shown = script = ""
        for line in self.adapted(text).splitlines(keepends=True):
            if _RUNS_ON.match(line) or _WEB_SERVER.match(line):
                shown, script = shown + self._run_shell(script), ""
                self._start(line, stack)
            else:
                script += line
        return shown + self._run_shell(script)

    def run_python(self, text: str) -> str:
        """The output of a program."""
        return self._run([sys.executable, "-c", self.adapted(text)])

    def adapted(self, text: str) -> str:
        """Code of the document for this machine."""
        text = re.sub(
            r"^(mtun socks .*)$", rf"\1 --listen {_SOCKS_PORT}", self._adapt(text), flags=re.MULTILINE
        )
        numbers = "|".join(map(str, self.ports))
        return re.sub(rf"(?<![\w.])({numbers})(?!\w)", lambda found: str(self.ports[int(found[1])]), text)

    def _run_shell(self, script: str) -> str:
        return self._run(["bash", "-euc", script]) if script else ""

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def _start(self, line: str, stack: ExitStack) -> None:
        web_server = _WEB_SERVER.match(line)
        command = shlex.split(line.rstrip("&\n"))
        process = subprocess.Popen(
            [sys.executable if web_server else str(self._programs / "mtun"), *command[1:]],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if web_server else subprocess.PIPE,
            stderr=subprocess.DEVNULL if web_server else None,
            text=True,
        )
        stack.enter_context(process)
        stack.callback(process.communicate)  # its last line has a reader
        stack.callback(process.terminate)
        if web_server:
            wait_for_port(int(web_server[1]))
        else:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready: "), line

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {"PATH": f"{self._programs}:{os.environ['PATH']}", "HOME": str(self.folder)}
