"""Services as generators, on a small hand-written loop. Standard library only.

Start with `Reactor` (loop.py) and what a service may yield (requests.py); streams.py and
sockets.py are what most services use.
"""

from reactor.channel import Channel
from reactor.clock import Clock, FakeClock, MonotonicClock
from reactor.descriptor import Descriptor
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
from reactor.forgotten import needs_yield_from
from reactor.handle import Handle, WeakHandle
from reactor.inspection import describe, dump
from reactor.lending import Loan, ReadSide
from reactor.loop import Reactor
from reactor.memory import MemoryReader, MemoryWriter, memory_pipe
from reactor.poller import EpollPoller, Poller, SelectorPoller
from reactor.proxy_handle import ProxyHandle
from reactor.requests import (
    PASS,
    CurrentTask,
    CurrentTime,
    Join,
    Pass,
    Request,
    RunInThread,
    Service,
    SetTimer,
    Sleep,
    Spawn,
    WaitReadable,
    WaitWritable,
)
from reactor.scope import Scope, in_scope
from reactor.selection import Chosen, Select, Source
from reactor.sender import Sender
from reactor.serving import CommandService, Receiving, Sending, serve
from reactor.shared_channel import SharedChannel
from reactor.signal import Signal
from reactor.sockets import SocketStream, TcpListener, UnixListener, connect_tcp, connect_unix
from reactor.spawners import Blocker, Coroutine, Restart, RestartHandle, Spawner
from reactor.streams import ReadStream, ReadYield, WriteStream, WriteYield
from reactor.thread import ReactorThread
from reactor.thread_spawners import ThreadPark, ThreadPool
from reactor.timeout import move_on_after, timeout_after
from reactor.tracing import Tracer, add_tracer, remove_tracer
from reactor.unix_signals import dump_on_signal, run_main
from reactor.watchdog import Watchdog

__all__ = [
    "PASS",
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
