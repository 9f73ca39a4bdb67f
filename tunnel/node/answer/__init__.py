"""A frame that ends at this node: a query for its inner service, or a reply to its own query.

`tunnel.node.relay` calls it once the header is open. Replies leave in send_reply.py, which writes them with
`tunnel.node.query.frame_io`.
"""
