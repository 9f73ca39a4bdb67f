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
    Lent,
    ReactorError,
    ServiceCancelled,
    TimedOut,
    UnexpectedEnd,
)
from reactor.handle import Handle
from reactor.inspection import describe, dump
from reactor.lending import Loan, ReadSide
from reactor.loop import Reactor
from reactor.memory import MemoryReader, MemoryWriter, memory_pipe
from reactor.poller import EpollPoller, Poller, SelectorPoller
from reactor.requests import (
    PASS,
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
from reactor.scope import Scope
from reactor.signal import Signal
from reactor.sockets import SocketStream, TcpListener, connect_tcp
from reactor.spawners import Blocker, Coroutine
from reactor.streams import ReadStream, ReadYield, WriteStream, WriteYield
from reactor.thread import ReactorThread
from reactor.timeout import timeout_after
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
    "Clock",
    "Closed",
    "ConnectError",
    "Coroutine",
    "CurrentTime",
    "Deadlock",
    "Descriptor",
    "EpollPoller",
    "FakeClock",
    "Handle",
    "Join",
    "Lent",
    "Loan",
    "MemoryReader",
    "MemoryWriter",
    "MonotonicClock",
    "Pass",
    "Poller",
    "Reactor",
    "ReactorError",
    "ReactorThread",
    "ReadSide",
    "ReadStream",
    "ReadYield",
    "Request",
    "RunInThread",
    "Scope",
    "SelectorPoller",
    "Service",
    "ServiceCancelled",
    "SetTimer",
    "Signal",
    "Sleep",
    "SocketStream",
    "Spawn",
    "TcpListener",
    "TimedOut",
    "Tracer",
    "UnexpectedEnd",
    "WaitReadable",
    "WaitWritable",
    "Watchdog",
    "WriteStream",
    "WriteYield",
    "add_tracer",
    "connect_tcp",
    "describe",
    "dump",
    "dump_on_signal",
    "memory_pipe",
    "remove_tracer",
    "run_main",
    "timeout_after",
]
