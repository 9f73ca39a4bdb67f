"""Public-key operations and the engine that carries them out."""
