"""Coordination of services: channels, signals, selections, scopes, time limits.

Imports `reactor.core`. `reactor.io`, `reactor.run` and users of the package import it.
"""
