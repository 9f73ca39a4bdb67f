"""Links to neighbours: the handshake over a socket, a link and its services, the table of links, the keeper.

Joins `tunnel.link` to sockets. `tunnel.node` imports it; other rooms open streams with `NodeContext.links`.
"""
