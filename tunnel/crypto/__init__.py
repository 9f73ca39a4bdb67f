"""Public-key operations, and the engine that carries them out.

Imports `readwrite_comp` and `tunnel.errors` only; `primitives` alone names the crypto libraries. Every room
may import it.
"""
