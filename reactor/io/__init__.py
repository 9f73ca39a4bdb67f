"""Streams and sockets: a `BlockingIOError` becomes a wait.

Imports `reactor.core` and `reactor.sync`. Users of the package import it; the other rooms do not.
"""
