"""The near end of tunnels for TCP programs: SOCKS and CONNECT, and the tunnels behind them.

Built on `reactor`, `tunnel.services`, `tunnel.established` and the types of `tunnel.node`; imports neither
clients nor configuration, control socket or command line, which use it.
"""
