"""The command line `mtun`: the commands, and their common parser, options and output.

Imports every room; no other room imports it. A command's module is loaded only for that command.
"""

import sys

try:
    from tunnel.cli.main import main
except KeyboardInterrupt:  # Ctrl-C while this is loaded; later `main` sees to it
    print("error: interrupted", file=sys.stderr)
    raise SystemExit(130) from None

__all__ = ["main"]
