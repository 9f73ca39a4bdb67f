"""Links to neighbours: handshake, table, liveness, peer exchange."""
