"""The error tree of the tunnel package. Error codes are in `tunnel.codes`.

Rules for changing it:

* The first level names the side at fault: `LocalTunnelError` (this process: a bug or a wrong argument) or
  `RemoteTunnelError` (bytes from outside).
* A class exists only where a caller acts differently. Other faults of peers are a plain `PeerError` with a
  code; detail for people goes in the text.
* A text has what happened, the expected and the actual value, and the place. It goes to the log, never to a
  peer.
* Cryptographic refusals do not give the reason (short input, bad point, wrong tag): it would help only an
  attacker.

`readwrite_comp.errors` and `reactor.errors` are separate trees, because each package can be used alone.
"""

from __future__ import annotations

from enum import IntEnum

from tunnel.codes import CODES, ErrorCode, Report

__all__ = [
    "BadArgument",
    "BadProxyRequest",
    "BadRoute",
    "BadSignature",
    "CannotListen",
    "ChangedContent",
    "ConfigError",
    "ControlError",
    "CryptoError",
    "DescriptorError",
    "Disconnected",
    "ErrorCode",
    "FileChanged",
    "FilesError",
    "FrameTruncated",
    "HandshakeError",
    "KeyFileError",
    "LinkError",
    "LocalTunnelError",
    "MalformedMessage",
    "MissingLibrary",
    "NextRefused",
    "NodeNotRunning",
    "NodeStopped",
    "PeerError",
    "ProfileError",
    "QueryFailed",
    "Refused",
    "RefusedKey",
    "RemoteTunnelError",
    "ReplayFileError",
    "StateError",
    "StateInUse",
    "StreamReset",
    "SubStreamReset",
    "TableFull",
    "TargetNotAllowed",
    "TooManyFiles",
    "TunnelError",
    "TunnelSilent",
    "TunnelStopped",
    "UnreadableRequest",
]


class TunnelError(Exception):
    """Root of every error that this package raises on purpose."""


class LocalTunnelError(TunnelError):
    """This process broke a rule: wrong argument, or a call in the wrong order.

    Attributes:
        hint: remedy, for people, shown under a traceback as well; may be empty.
    """

    def __init__(self, text: str = "", hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")


class BadArgument(LocalTunnelError, ValueError):
    """A value out of range, or an unknown name; the text has the expected values."""


class RemoteTunnelError(TunnelError):
    """Bytes from outside broke the rules; nothing here is wrong.

    Attributes:
        is_expected: logged in one line, without a traceback: see `reactor.errors.log_failure`.
    """

    is_expected = True


class CryptoError(RemoteTunnelError):
    """Root of refusals by the cryptographic primitives."""


class Refused(CryptoError):
    """Sealed bytes do not open. One error for every reason."""


class RefusedKey(CryptoError):
    """A public key from outside has low order, a wrong length, or (for sealing) is not canonical."""


class BadSignature(CryptoError):
    """An Ed25519 signature does not fit the message and the key."""


class HandshakeError(RemoteTunnelError):
    """A link handshake message was refused; the state of the handshake is unchanged."""


class BadProxyRequest(RemoteTunnelError):
    """A program sent to a SOCKS and CONNECT port what that port refuses.

    Attributes:
        reply: bytes to send before the connection is closed; may be empty.
    """

    def __init__(self, text: str, reply: bytes = b"") -> None:
        super().__init__(text)
        self.reply = reply


class DescriptorError(RemoteTunnelError):
    """A node descriptor is malformed, expired, or not signed by the node that it names."""


class BadRoute(LocalTunnelError):
    """A route cannot be built: too long, too few peers, a node twice, or an unknown node.

    Attributes:
        hops, available: number of proxies needed, and of usable nodes; None for other causes.
        hint: remedy, for people; may be empty.
    """

    def __init__(
        self, text: str, *, hops: int | None = None, available: int | None = None, hint: str = ""
    ) -> None:
        super().__init__(text)
        self.hops = hops
        self.available = available
        self.hint = hint
        if not hint and hops is not None and available is not None and 0 <= available < hops:
            self.hint = f"for a shorter route, which hides less, give --hops {available}; or add peers"
            if not available:
                self.hint = "add peers; --hops 0 sends directly, and shows the destination this address"


class KeyFileError(LocalTunnelError):
    """A key or peer file cannot be read: damaged, of another version, or of another kind."""


class ReplayFileError(LocalTunnelError):
    """A saved replay table is damaged or belongs to another onion key. Make a new onion key."""


class ConfigError(LocalTunnelError):
    """A configuration, or a name on the command line, is refused: unknown, of a wrong type, out of range."""


class StateError(LocalTunnelError):
    """The state on disk cannot be used: locked by another node, damaged, foreign, or not private."""


class StateInUse(StateError):
    """Another process uses the state folder of a node, or runs a whole network.

    Attributes:
        process: the id of that process, as text.
    """

    def __init__(self, text: str, hint: str, process: str) -> None:
        super().__init__(f"{text} (process {process})", hint)
        self.process = process


class CannotListen(LocalTunnelError):
    """The system refuses an address or a Unix socket: in use, not of this machine, or not permitted."""


class FileChanged(LocalTunnelError):
    """A file was changed or replaced while it was sent. The other end has not stored it."""


class ControlError(LocalTunnelError):
    """A running node cannot be used over its control socket: missing, of another user or another version."""


class NodeNotRunning(ControlError):
    """No node is running with that control socket."""


class TooManyFiles(LocalTunnelError):
    """The network needs more open files than this process may have; the text gives the command to run."""


class MissingLibrary(LocalTunnelError):
    """A required library is not installed; the text names it."""


class PeerError(RemoteTunnelError):
    """A neighbour or a frame broke a rule. Subclasses exist only for causes that code acts on.

    Attributes:
        code: the reason, which the sender receives in a RESET.
    """

    code: ErrorCode = ErrorCode.PROTOCOL

    def __init__(self, text: str = "", code: ErrorCode | None = None) -> None:
        super().__init__(text)
        if code is not None:
            self.code = code


class LinkError(PeerError):
    """Bytes on a link that the record or cell layouts do not allow. Closes the link."""


class ProfileError(PeerError):
    """An unknown profile, or one that cannot hold the route."""

    code = ErrorCode.UNSUPPORTED


class TableFull(PeerError):
    """A table is full: new work is refused until entries expire."""

    code = ErrorCode.BUSY


class NextRefused(PeerError):
    """The next node cannot be reached, or another node answered in its place."""

    code = ErrorCode.NEXT_REFUSED


class Disconnected(PeerError):
    """The connection to a neighbour broke before the frame was complete."""

    code = ErrorCode.DISCONNECTED


class FrameTruncated(PeerError):
    """A frame ended (FIN) before its last chunk."""

    code = ErrorCode.TRUNCATED


class MalformedMessage(PeerError):
    """Content does not open or is malformed: found by Bob, or by Alice in a reply."""

    code = ErrorCode.BAD_CONTENT


class ChangedContent(MalformedMessage):
    """A frame or its receipts: changed on the way, or made by a sender that breaks the rules.

    What a service cannot read is a plain `MalformedMessage`: it has arrived as it was sent.
    """


class UnreadableRequest(PeerError):
    """Bob's service cannot read the request."""

    code = ErrorCode.BAD_REQUEST


class TargetNotAllowed(PeerError):
    """An unknown service name, or a sub-stream target that the rules of this node forbid."""

    code = ErrorCode.TARGET_NOT_ALLOWED


class TunnelSilent(PeerError):
    """Nothing arrives over an established tunnel any more, not even the answer to a probe.

    The place of the fault is unknown: the other end, or any node or link of the route.
    """

    code = ErrorCode.TIMEOUT


class TunnelStopped(PeerError):
    """This node ended an established tunnel, at the user's request or because it stops."""

    code = ErrorCode.CANCELLED


class StreamReset(PeerError):
    """The neighbour or this node reset the stream. `code` is the reason, forwarded unchanged."""

    def __init__(self, code: ErrorCode, by: str = "by the neighbour") -> None:
        super().__init__(f"reset {by}: {code.name}")
        self.code = code


class SubStreamReset(PeerError):
    """One end aborted a sub-stream of an established tunnel, or the whole tunnel, with `code`.

    Attributes:
        by_other_end: whether the other end did it.
    """

    def __init__(self, code: ErrorCode, *, by_other_end: bool = False) -> None:
        did = CODES[code].did.format(next="the next node") if by_other_end else "gave up the stream"
        super().__init__(f"{'the other' if by_other_end else 'this'} end {did} ({code.name})")
        self.code = code
        self.by_other_end = by_other_end


class QueryFailed(RemoteTunnelError):
    """A query ended without its result. The text has all that is known.

    Attributes:
        code: the reason, if known.
        report: the report of the route's nodes, if there is one.
        blamed: ids of nodes of which at least one is at fault (docs/errors.md, "Codes"): by the report, by
            the failure of the first link, or all that carried the query. May be empty.
        attempts: failures of all attempts of a retried query, the last one included.
        hint: remedy, for people, if it is more specific than the code's advice; may be empty.
    """

    def __init__(
        self,
        text: str,
        code: ErrorCode | None = None,
        report: Report | None = None,
        blamed: tuple[bytes, ...] = (),
        attempts: tuple[QueryFailed, ...] = (),
        hint: str = "",
    ) -> None:
        super().__init__(text)
        self.code = code
        self.report = report
        self.blamed = blamed
        self.attempts = attempts
        self.hint = hint


class NodeStopped(QueryFailed):
    """This node was stopped, or its reactor closed, before or during a query or tunnel."""

    def __init__(self) -> None:
        super().__init__("this node was stopped", ErrorCode.CANCELLED)


class FilesError(RemoteTunnelError):
    """A files service refused a request. `status` is the reason (`tunnel.services.FileStatus`)."""

    def __init__(self, text: str, status: IntEnum) -> None:
        super().__init__(f"{text} ({status.name})")
        self.status = status
