"""Routes: how they are drawn, guards, address rules, what is known of peers.

No sockets. `tunnel.node` and `tunnel.directory` import it, and `tunnel.onion` its `Route`.
"""
