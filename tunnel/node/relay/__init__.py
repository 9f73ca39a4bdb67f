"""A frame through this node: the header is read, then the frame is relayed or served here.

`read_service` (read, global) and `relay_frame` (write) in read_service.py; the chunk loop and the guards of a
service in relay_loop.py; STATUS in status_reporter.py. The rest of `tunnel.node` and
`tunnel.control` import it.
"""
