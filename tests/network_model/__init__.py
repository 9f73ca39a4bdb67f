"""A model of a network: nodes of one reactor, joined by connections in memory, on a fake clock."""
