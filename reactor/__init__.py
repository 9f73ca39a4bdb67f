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
    "UnexpectedEnd",
    "WaitReadable",
    "WaitWritable",
    "WriteStream",
    "WriteYield",
    "connect_tcp",
    "memory_pipe",
    "timeout_after",
]
