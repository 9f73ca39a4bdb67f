"""`python -m tunnel` is `mtun`."""

from tunnel.cli import main

raise SystemExit(main())
