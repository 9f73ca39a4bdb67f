"""A query of this node's user."""
