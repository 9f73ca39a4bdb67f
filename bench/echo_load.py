"""The load of `bench.echo`, the same for all servers, in its own process.

`python -m bench.echo_load PORT CONNECTIONS BYTES REQUESTS`: each connection sends a request, waits for the
whole echo and sends the next: no pipelining. It prints one JSON line when all connections are open and waits
for a line of input; then it runs and prints its figures. A bare epoll loop, so that it is not the bottleneck.
REQUESTS 0: the connections stay idle until the input ends.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time

from bench.echo_servers import allow_many_descriptors

__all__ = ["main"]

# Only some requests are timed: a clock call for each would slow down the load.
_TIMED_EVERY = 16


def main() -> None:
    allow_many_descriptors()
    port, connections, size, requests = map(int, sys.argv[1:5])
    if requests == 0:
        _hold(port, connections)
        return
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    # One echo over each first, so that all are accepted: accepting 1,000 would be a fifth of the figure.
    _run(socks, size, len(socks))
    print(json.dumps({"connected": connections}), flush=True)
    sys.stdin.readline()
    before = resource.getrusage(resource.RUSAGE_SELF)
    started_s = time.perf_counter()
    latencies_s = _run(socks, size, requests)
    seconds = time.perf_counter() - started_s
    after = resource.getrusage(resource.RUSAGE_SELF)
    latencies_s.sort()
    figures = {
        "seconds": seconds,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "p50_ms": latencies_s[len(latencies_s) // 2] * 1e3,
        "p99_ms": latencies_s[len(latencies_s) * 99 // 100] * 1e3,
    }
    print(json.dumps(figures), flush=True)


def _hold(port: int, connections: int) -> None:
    """Idle connections: open them, and close them when the input ends."""
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    print(json.dumps({"connected": len(socks)}), flush=True)
    sys.stdin.readline()


def _run(socks: list[socket.socket], size: int, requests: int) -> list[float]:
    """Make `requests` requests in all and return the seconds of a sample of them."""
    poller = select.epoll()
    payload, buffer = bytes(size), memoryview(bytearray(size))
    by_fd = {sock.fileno(): sock for sock in socks}
    missing = dict.fromkeys(by_fd, size)
    sent_s: dict[int, float] = {}
    latencies_s: list[float] = []
    for fd, sock in by_fd.items():
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poller.register(fd, select.EPOLLIN)
        sock.sendall(payload)
        sent_s[fd] = time.perf_counter()
    started, done = len(socks), 0
    while done < requests:
        for fd, _ in poller.poll():
            sock = by_fd[fd]
            count = sock.recv_into(buffer)
            if count == 0:
                raise ConnectionError("the server closed a connection")
            left = missing[fd] - count
            if left:
                missing[fd] = left
                continue
            missing[fd] = size
            done += 1
            if fd in sent_s:
                latencies_s.append(time.perf_counter() - sent_s.pop(fd))
            if started < requests:
                started += 1
                if started % _TIMED_EVERY == 0:
                    sent_s[fd] = time.perf_counter()
                sock.sendall(payload)
    return latencies_s


if __name__ == "__main__":
    main()
