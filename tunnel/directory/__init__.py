"""Where descriptors come from. This version: a static list."""

from tunnel.directory.static_file import StaticDirectory

__all__ = ["Directory", "StaticDirectory"]

# Peer exchange and a distributed hash table will be others; until there are two, the one is the type.
Directory = StaticDirectory
