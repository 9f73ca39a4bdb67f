"""A kit of hostile peers: they speak the real protocol and break each of its rules in turn.

    network.py          real nodes in one reactor with a fake clock; connections in memory
    peer.py             the hostile end of a link, in both roles; what came back from the node
    frames.py           headers, chunks and heads written from docs/protocol.md, with any fault
    rules.py            what a rule is: its sentence in the document, how it is broken, what must follow
    rules_*.py          the table, in parts
    __main__.py         the counter: `python -m tests.hostile --inputs N --seconds S`

To add a rule: a row in one of the tables. Each row runs in every role and at every point of a link that the
row allows; see test_rules.py for what is checked. Source: docs/protocol.md.
"""
