"""The entrance to tunnels for TCP programs: SOCKS and CONNECT ports, forwards, and their tunnels.

Built on `reactor`, `tunnel.services`, `tunnel.established` and the types of `tunnel.node`. Clients,
configuration, control socket and command line import it, not the reverse.
"""
