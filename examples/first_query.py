"""The shortest complete program: 25 real nodes on loopback, a query through 23 of them, and the reply."""

from tunnel import LocalNetwork

with LocalNetwork(peers=25) as net:
    alice, bob = net[0], net[24]
    result = alice.query(bob.id, b"ping", hops=23).result(timeout=30)
    print(f"{result.read().decode()!r} came back through {len(result.route.proxies)} proxies")
