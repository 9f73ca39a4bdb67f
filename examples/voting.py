"""A secret ballot: voters send their votes through proxies to a node that counts them.

Before the vote the registrar gives each voter a credential of 32 random bytes. The tally node gets the
SHA-256 of all credentials, in random order. A ballot is a credential and a choice. It goes to the tally
through proxies that the voter chooses, and the receipt returns along a reply block. The tally learns that
an entitled voter has voted, once, and not who it was. All ballots have the same length on every link.

Limits of this protection:

* The registrar knows the owner of each credential. Together with the tally it can match voters and votes.
  Blind signatures would prevent that; this example does not have them.
* The tally is trusted to count. A voter gets a receipt, but cannot check the sum.
* An observer of both a voter's link and the tally's, or the owner of all proxies of a voter, can link them by
  time. Voters should therefore vote at random times; here they vote in random order.
* A voter can show a credential to a buyer, or be forced to.
* A voter whose receipt was lost and who votes again learns only that the credential was used, not by whom.
"""

import hashlib
import secrets
from collections import Counter

from reactor import Service
from tunnel import LocalNetwork
from tunnel.services import Query, Reply

CREDENTIAL_BYTES = 32
CHOICES = {b"yes", b"no "}  # of equal length
BALLOT_BYTES = CREDENTIAL_BYTES + 3


class Tally:
    """Counts each credential once. It stores digests, not the credentials."""

    def __init__(self, digests: list[bytes]) -> None:
        self._unused = set(digests)
        self.count: Counter[str] = Counter()

    def __call__(self, query: Query, reply: Reply) -> Service[None]:
        ballot = b""
        while len(ballot) <= BALLOT_BYTES and (more := (yield from query.read())):
            ballot += more
        yield from reply.write(self._receive(ballot))

    def _receive(self, ballot: bytes) -> bytes:
        digest = hashlib.sha256(ballot[:CREDENTIAL_BYTES]).digest()
        choice = ballot[CREDENTIAL_BYTES:]
        if choice not in CHOICES:
            return b"refused: no such choice"  # the credential is still good
        if digest not in self._unused:
            return b"refused: the credential is unknown or used"
        self._unused.remove(digest)
        self.count[choice.decode().strip()] += 1
        return b"counted"


def register(voters: int) -> tuple[list[bytes], list[bytes]]:
    """The registrar: one credential for each voter, and their digests, in an order that reveals nothing."""
    credentials = [secrets.token_bytes(CREDENTIAL_BYTES) for _ in range(voters)]
    return credentials, sorted(hashlib.sha256(credential).digest() for credential in credentials)


def main() -> None:
    votes = [b"yes"] * 4 + [b"no "] * 2
    credentials, digests = register(len(votes))
    tally = Tally(digests)
    with LocalNetwork(peers=10, service=tally) as net:
        bob = net[9].id

        def vote(voter: int, ballot: bytes) -> str:
            return net[voter].query(bob, ballot, hops=3).result(timeout=30).read().decode()

        order = list(range(len(votes)))
        secrets.SystemRandom().shuffle(order)
        receipts = Counter(vote(voter, credentials[voter] + votes[voter]) for voter in order)
        print(f"receipts: {dict(receipts)}")
        print(f"a second vote is {vote(0, credentials[0] + b'no ')}")
        print(f"an invented credential is {vote(1, secrets.token_bytes(CREDENTIAL_BYTES) + b'no ')}")
    print(f"the tally: {tally.count['yes']} yes, {tally.count['no']} no")


if __name__ == "__main__":
    main()
