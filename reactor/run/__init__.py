"""Ways to run services: spawners, threads, asyncio, Unix signals, and tools to look inside."""
