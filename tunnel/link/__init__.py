"""One link as bytes: handshake, records, and the multiplexer with its streams, credit and padding.

No sockets, clocks, threads or reactor. `tunnel.node` gives it a socket; `tunnel.config` reads its settings.
"""
