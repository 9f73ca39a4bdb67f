"""The users and passwords of a port, and a limit on guesses.

    logins = Logins({"alice": "secret"})
    logins.refusal((b"alice", b"secret"), "192.0.2.7")      # "": accepted

A password may be short, and the port may be reachable from a whole network. After `FREE_FAILURES` wrong
passwords from one address, only one attempt per `PAUSE_S` is checked, which leaves 8,640 guesses a day. All
other attempts are refused without a check, even with the right password. If the right password were
accepted, the limit would not slow a guesser down.

Failures are counted for each pair of user and address. A program that keeps trying an old password therefore
locks out only its own user, and only at its own address. Unknown user names share one count, so a guesser
cannot create more counts than there are users. IPv6 addresses count by their /48, which many homes have: its
65,536 networks of /64 would not be slowed down at all.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from tunnel.errors import BadArgument
from tunnel.front.handshake import Login
from tunnel.routing.addresses import host_group

__all__ = ["FREE_FAILURES", "MOST_COUNTS", "MOST_LOGIN_BYTES", "PAUSE_S", "Logins"]

FREE_FAILURES: Final = 5
PAUSE_S: Final = 10.0
MOST_COUNTS: Final = 1_024
"""Counts of failures. Beyond them the oldest is forgotten, so a guesser with more networks is not slowed.
Refusing all further networks instead would let it lock everybody out."""
MOST_LOGIN_BYTES: Final = 255  # by the length byte of RFC 1929
_MOST_GROUP_BYTES: Final = 1 + 6  # the IP version and a /48; IPv4 addresses are shorter


class Logins:
    """Checks logins.

    Args:
        users: password by user name.
        now_s: a monotonic clock.
    Attributes:
        counts: failures that are not forgotten yet.
    Raises:
        TypeError: not a mapping of text to text, or an empty one. BadArgument: a user or password that is
            empty or longer than 255 bytes, or a name with ":".
    """

    def __init__(self, users: Mapping[str, str], now_s: Callable[[], float] = time.monotonic) -> None:
        self._users = _checked(users)
        self.now_s = now_s
        # By address and user, the oldest first: when all failures are forgotten. Each adds `PAUSE_S`.
        self._forgotten_s: dict[tuple[bytes, bytes | None], float] = {}

    @property
    def counts(self) -> int:
        return len(self._forgotten_s)

    def refusal(self, login: Login, host: str) -> str:
        """The reason why a login is refused, for the client; "": it is accepted.

        Args:
            host: the address of the client; "": a Unix socket, which only its owner can use.
        """
        user, password = login
        network = host_group(host)[:_MOST_GROUP_BYTES] if host else b""
        count = network, user if user in self._users else None
        now_s = self.now_s()
        forgotten_s = max(self._forgotten_s.get(count, now_s), now_s)
        wait_s = forgotten_s - now_s - (FREE_FAILURES - 1) * PAUSE_S
        if wait_s > 0:
            return f"too many wrong passwords from this address: try again in {wait_s:.0f} s"
        # An unknown user takes as long as a wrong password.
        is_right = hmac.compare_digest(password, self._users.get(user, b""))
        if is_right and user in self._users:
            return ""
        self._forgotten_s.pop(count, None)
        if len(self._forgotten_s) >= MOST_COUNTS:
            del self._forgotten_s[next(iter(self._forgotten_s))]
        self._forgotten_s[count] = forgotten_s + PAUSE_S
        return "wrong user or password"


def _checked(users: Any) -> dict[bytes, bytes]:
    if not isinstance(users, Mapping) or not users:
        raise TypeError("users: expected a mapping with at least one user and password")
    found = {}
    for user, password in users.items():
        if not isinstance(user, str) or not isinstance(password, str):
            raise TypeError("users: expected names and passwords as text")
        pair = user.encode(), password.encode()
        if not all(1 <= len(each) <= MOST_LOGIN_BYTES for each in pair) or ":" in user:
            raise BadArgument(
                f"users: expected names and passwords of 1 to {MOST_LOGIN_BYTES} bytes, and no ':' in a name"
            )
        found[pair[0]] = pair[1]
    return found
