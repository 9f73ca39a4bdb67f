"""Nodes of one reactor, joined by connections in memory, on a clock that the test moves."""
