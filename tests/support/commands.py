"""`mtun` commands as processes that run until a block ends, and what a program that is missing means."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["needs", "running"]


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A command that runs until the block ends, and its first line."""
    command = [sys.executable, "-m", "tunnel", *arguments, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert process.returncode == 0


def needs(*programs: str, package: str) -> pytest.MarkDecorator:
    """Skip a test where a program is not installed. In CI it is installed, so there it fails instead."""
    missing = [name for name in programs if shutil.which(name) is None]
    assert not (missing and os.environ.get("CI")), f"CI has to install {package}"
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)}: apt install {package}")
