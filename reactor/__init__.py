"""Services as generators, on a small hand-written loop. Standard library only.

Start with `Reactor` (core/loop.py), the requests that a service may yield (core/requests.py), and the streams
and sockets in io/. Imports neither `readwrite_comp` nor `tunnel`; anything may import it.
"""

from reactor.core.forgotten import needs_yield_from
from reactor.core.loop import Reactor
from reactor.core.poller import Descriptor, EpollPoller, Poller, SelectorPoller, WaitReadable, WaitWritable
from reactor.core.requests import YIELD, CurrentTask, CurrentTime, Pass, Request, Service, Spawn
from reactor.core.task import Handle, Join, WeakHandle
from reactor.core.threads import RunInThread
from reactor.core.timers import Clock, FakeClock, MonotonicClock, SetTimer, Sleep
from reactor.errors import (
    BadRequest,
    Broken,
    Busy,
    Cancelled,
    ChannelClosed,
    ChannelEmpty,
    ChannelFull,
    Closed,
    ConnectError,
    Deadlock,
    Forked,
    Lent,
    ReactorError,
    ServiceCancelled,
    TimedOut,
    UnexpectedEnd,
)
from reactor.io.memory import MemoryReader, MemoryWriter, memory_pipe
from reactor.io.sockets import SocketStream, TcpListener, UnixListener, connect_tcp, connect_unix
from reactor.io.streams import Loan, ReadSide, ReadStream, ReadYield, WriteStream, WriteYield
from reactor.run.debug import Tracer, Watchdog, add_tracer, describe, dump, remove_tracer
from reactor.run.signals import dump_on_signal, run_main
from reactor.run.spawners import (
    Blocker,
    CommandService,
    Coroutine,
    ProxyHandle,
    Receiving,
    Restart,
    RestartHandle,
    Sending,
    Spawner,
    serve,
)
from reactor.run.threads import ReactorThread, ThreadPark, ThreadPool
from reactor.sync.channel import Channel, Sender
from reactor.sync.scope import Scope, Signal, in_scope, move_on_after, timeout_after
from reactor.sync.selection import Chosen, Select, Source
from reactor.sync.shared_channel import SharedChannel

__all__ = [
    "YIELD",
    "BadRequest",
    "Blocker",
    "Broken",
    "Busy",
    "Cancelled",
    "Channel",
    "ChannelClosed",
    "ChannelEmpty",
    "ChannelFull",
    "Chosen",
    "Clock",
    "Closed",
    "CommandService",
    "ConnectError",
    "Coroutine",
    "CurrentTask",
    "CurrentTime",
    "Deadlock",
    "Descriptor",
    "EpollPoller",
    "FakeClock",
    "Forked",
    "Handle",
    "Join",
    "Lent",
    "Loan",
    "MemoryReader",
    "MemoryWriter",
    "MonotonicClock",
    "Pass",
    "Poller",
    "ProxyHandle",
    "Reactor",
    "ReactorError",
    "ReactorThread",
    "ReadSide",
    "ReadStream",
    "ReadYield",
    "Receiving",
    "Request",
    "Restart",
    "RestartHandle",
    "RunInThread",
    "Scope",
    "Select",
    "SelectorPoller",
    "Sender",
    "Sending",
    "Service",
    "ServiceCancelled",
    "SetTimer",
    "SharedChannel",
    "Signal",
    "Sleep",
    "SocketStream",
    "Source",
    "Spawn",
    "Spawner",
    "TcpListener",
    "ThreadPark",
    "ThreadPool",
    "TimedOut",
    "Tracer",
    "UnexpectedEnd",
    "UnixListener",
    "WaitReadable",
    "WaitWritable",
    "Watchdog",
    "WeakHandle",
    "WriteStream",
    "WriteYield",
    "add_tracer",
    "connect_tcp",
    "connect_unix",
    "describe",
    "dump",
    "dump_on_signal",
    "in_scope",
    "memory_pipe",
    "move_on_after",
    "needs_yield_from",
    "remove_tracer",
    "run_main",
    "serve",
    "timeout_after",
]
