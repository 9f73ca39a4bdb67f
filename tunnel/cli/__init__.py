"""The command line: `mtun`."""

from tunnel.cli.main import main

__all__ = ["main"]
