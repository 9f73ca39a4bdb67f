"""Links to neighbours: dialling, listening, the services of a link, the link table, peer exchange.

Joins `tunnel.link` to sockets. `tunnel.node` imports it; other rooms reach it through `NodeContext.links`.
"""
