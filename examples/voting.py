"""A secret ballot: voters send their votes through tunnels to a node that counts them.

Before the vote the registrar gives each voter a credential, 32 random bytes, and the tally node the SHA-256
of all of them, in random order. A ballot is a credential and a choice. It goes to the tally through proxies
of the voter's own choosing, and the receipt comes back along a reply block: the tally sees that *somebody*
who may vote has voted, once, and not who. All ballots have the same length on every link.

What this does not protect, so that nobody relies on it:

* The registrar knows who got which credential. Together with the tally it can say who voted what. (Blind
  signatures would mend that; they are not here.)
* The tally is trusted to count. A voter gets a receipt, and cannot check the sum.
* Who sees both a voter's link and the tally's, or owns all proxies of a voter, can link them by time. Voters
should
  vote at random times; here they do so in random order.
* A voter can show his credential to a buyer, or be forced to. One whose receipt is lost on the way hears,
when he
  tries again, that his credential was used: by himself, as far as he can know.
"""

import hashlib
import secrets
from collections import Counter

from reactor import Service
from tunnel import LocalNetwork
from tunnel.services import Query, Reply

CREDENTIAL_BYTES = 32
CHOICES = {b"yes", b"no "}  # of one length
BALLOT_BYTES = CREDENTIAL_BYTES + 3


class Tally:
    """Counts each credential once. The credentials themselves are not here, only their digests."""

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
            return b"refused: no credential, or one that was used"
        self._unused.remove(digest)
        self.count[choice.decode().strip()] += 1
        return b"counted"


def register(voters: int) -> tuple[list[bytes], list[bytes]]:
    """The registrar: one credential for each voter, and their digests in an order that says nothing."""
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
        print(f"voting twice is {vote(0, credentials[0] + b'no ')}")
        print(f"an invented credential is {vote(1, secrets.token_bytes(CREDENTIAL_BYTES) + b'no ')}")
    print(f"the tally: {tally.count['yes']} yes, {tally.count['no']} no")


if __name__ == "__main__":
    main()
