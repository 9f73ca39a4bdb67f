"""Streams and sockets: where `BlockingIOError` becomes a wait. Built on `reactor.core`."""
