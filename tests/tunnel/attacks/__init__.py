"""The attacks of docs/protocol.md, "Threat model", carried out with the bytes that an attacker has.

Each file is one row of that table. It states the attacker and his knowledge, and asserts what he learns
(nothing, or what the document admits) and what the victim sees: the documented error.

    test_tagging         reading or changing content at a proxy
    test_position        finding one's position, or the kind of a frame, from sizes and bytes
    test_collusion       two hops compare all their bytes
    test_header_changes  changing or reusing a part of a header
    test_replay          replaying a recorded frame, or a reply block
    test_seizure         reading recorded frames after a node is seized
    test_exhaustion      memory and processor time spent on headers and heads
    test_forged          forged, random and truncated bytes from a holder of the keys
    test_dht_poisoning   invented, old and worthless values in the hash table
    test_guard_eclipse   hostile nodes that wait, or make guards fail, to be the first hop
    test_clock_set_back  replays after the clock was set to any time
    test_times_of_checks secrets in the time of a refusal
    test_reflection      making a node answer a victim that did not ask
"""
