"""One link as bytes: the handshake, records and their cells, and the multiplexer with its streams and credit.

Without sockets, clocks, threads or reactor. It imports no room but identity and crypto. `tunnel.node` joins
it to sockets; neighbour_pool.py decides when links are dialled and replaced, padding.py when they are padded.
"""
