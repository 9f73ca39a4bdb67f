"""Ways to run services: spawners, threads, asyncio, Unix signals; and tracing.

Imports `reactor.core` and `reactor.sync`. Users of the package import it; the other rooms do not.
"""
