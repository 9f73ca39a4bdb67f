"""A frame through this node."""
