"""The onion protocol as bytes: headers, messages, reply blocks, status, replay table.

No sockets, clocks, threads or reactor: time and randomness are arguments. Imports `crypto`, `identity`,
`directory` and `routing`; every room may import it.
"""
