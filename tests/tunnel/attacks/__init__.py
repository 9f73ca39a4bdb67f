"""Attacks of docs/protocol.md, "Threat model", carried out with the bytes that an attacker has.

One file a row.
Each says who attacks and what he has, asserts what he learned (nothing, or what the document admits), and
what the victim saw: the documented error.

    test_tagging         reading or changing content at a proxy
    test_position        one's position, or the kind of a frame, from sizes and bytes
    test_collusion       two hops compare all that they saw
    test_header_changes  changing or re-using a part of a header
    test_replay          replaying a recorded frame, or a reply block
    test_seizure         reading recorded frames after a node is seized
    test_exhaustion      memory and processor time, as far as headers and heads go
    test_forged          forged, random and truncated bytes from who has the keys
    test_reflection      having a node answer somebody who did not ask
"""
