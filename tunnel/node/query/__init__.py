"""A query of this node's user, from the request to the result, with retries.

`tunnel.node.user` and the clients import it. It sends frames through `NodeContext.links`.
"""
