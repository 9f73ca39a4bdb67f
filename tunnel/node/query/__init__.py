"""A query of this node's user, from the request to the result, with retries.

request.py describes the path of a query; incoming_replies.py collects its replies. `tunnel.node.node` and the
clients import this folder. It sends frames through `NodeContext.links`.
"""
