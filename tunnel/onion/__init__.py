"""The onion protocol as bytes: headers, messages, reply blocks, status, replay table.

No sockets, clocks, threads or reactor: time and randomness are arguments. Every room may import it.
"""
