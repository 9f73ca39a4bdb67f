"""Services as generators, on a small hand-written loop. Standard library only.

Start with `Reactor` (core/loop.py), the requests that a service may yield (core/requests.py), and the streams
and sockets in io/. Imports neither `readwrite_comp` nor `tunnel`; every package may import it.
"""

from reactor.core.forgotten import needs_yield_from
from reactor.core.loop import Reactor
from reactor.core.requests import YIELD, CurrentTime, Service, Spawn
from reactor.core.task import Handle, WeakHandle
from reactor.core.threads import RunInThread
from reactor.core.timers import Sleep
from reactor.errors import (
    BadRequest,
    Broken,
    Busy,
    Cancelled,
    ChannelClosed,
    ChannelFull,
    Closed,
    ConnectError,
    ReactorError,
    ServiceCancelled,
    TimedOut,
    UnexpectedEnd,
)
from reactor.io.connecting import connect_tcp, connect_unix
from reactor.io.sockets import SocketStream, TcpListener, UnixListener
from reactor.io.streams import ReadYield, WriteYield
from reactor.run.signals import run_main
from reactor.run.spawners import Blocker, Coroutine, Restart, serve
from reactor.run.threads import ReactorThread, ThreadPark, ThreadPool
from reactor.sync.channel import Channel, SharedChannel
from reactor.sync.scope import Scope, Signal, in_scope, move_on_after, timeout_after
from reactor.sync.selection import Select

__all__ = [
    "YIELD",
    "BadRequest",
    "Blocker",
    "Broken",
    "Busy",
    "Cancelled",
    "Channel",
    "ChannelClosed",
    "ChannelFull",
    "Closed",
    "ConnectError",
    "Coroutine",
    "CurrentTime",
    "Handle",
    "Reactor",
    "ReactorError",
    "ReactorThread",
    "ReadYield",
    "Restart",
    "RunInThread",
    "Scope",
    "Select",
    "Service",
    "ServiceCancelled",
    "SharedChannel",
    "Signal",
    "Sleep",
    "SocketStream",
    "Spawn",
    "TcpListener",
    "ThreadPark",
    "ThreadPool",
    "TimedOut",
    "UnexpectedEnd",
    "UnixListener",
    "WeakHandle",
    "WriteYield",
    "connect_tcp",
    "connect_unix",
    "in_scope",
    "move_on_after",
    "needs_yield_from",
    "run_main",
    "serve",
    "timeout_after",
]
