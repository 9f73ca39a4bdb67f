"""Routes: the draw (`draw_route`), guards, address rules, the peer table, cover frames.

No traffic: nothing here sends a byte. `tunnel.node` and `tunnel.directory` import it, and `tunnel.onion` its
`Route`.
"""
