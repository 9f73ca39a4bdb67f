"""A frame through this node: its header is read, then the frame is relayed or served here.

`read_service`, `relay_frame` and the chunk loop `relay` in read_service.py; STATUS in status_reporter.py.
`tunnel.node` imports it; it imports the room answer and the state of the node.
"""
