"""Public-key operations and the engine that provides them.

Imports `readwrite_comp` and `tunnel.errors` only. Every room may import it.
"""
