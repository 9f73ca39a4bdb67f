"""The command line: `mtun`."""

import sys

try:
    from tunnel.cli.main import main
except KeyboardInterrupt:  # Ctrl-C while this is loaded; later `main` sees to it
    print("error: interrupted", file=sys.stderr)
    raise SystemExit(130) from None

__all__ = ["main"]
