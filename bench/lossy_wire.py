"""A slow, lossy Ethernet between network namespaces: each has a TAP device, and a process carries the frames.

    with LossyWire(5, delay_s=0.05, loss=0.01) as wire:
        subprocess.run([*wire.enter(0), "ping", "-c", "1", wire.address(1)])

Not every kernel has netem; a TAP device needs only `/dev/net/tun`. Each frame is dropped with the given
probability or delivered after the delay, so a round trip takes twice the delay and TCP sees real losses.
With a speed, the frames of each namespace leave one after the other, and wait in a queue of 0.1 s; those that
find it full are dropped.
Needs root. `python -m bench.lossy_wire` is the process that carries the frames.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["LossyWire", "why_not"]

_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x1002
_CLONE_NEWNET = 0x40000000
_FRAME_BYTES = 2048
_QUEUE_S = 0.1
_DEVICE = "wire0"
_FIRST_NET = 20  # 20.77.0.1 and up; nothing leaves the namespaces
_NAMESPACES = Path("/run/netns")


def why_not() -> str | None:
    """The reason why namespaces cannot be made here; None: they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "no `ip` command (iproute2)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun"
    made = subprocess.run(["ip", "netns", "add", "mtun-probe"], capture_output=True, check=False)
    if made.returncode:
        return f"ip netns: {made.stderr.decode().strip()}"
    subprocess.run(["ip", "netns", "del", "mtun-probe"], check=True)
    return None


class LossyWire:
    """A context manager: namespaces with one address each, joined by a wire.

    Args:
        count: namespaces.
        delay_s: of each frame. loss: the probability that a frame is dropped, 0 to 1.
        mbit: what a namespace can send, in 10⁶ bits a second; None: no limit.
    """

    def __init__(self, count: int, *, delay_s: float, loss: float = 0.0, mbit: float | None = None) -> None:
        self.count = count
        self._options = ["--delay", str(delay_s), "--loss", str(loss)]
        self._options += [] if mbit is None else ["--mbit", str(mbit)]
        self._names = [f"mtun-{os.getpid()}-{index}" for index in range(count)]
        self._cleanup = ExitStack()

    def address(self, index: int) -> str:
        """The IPv4 address of a namespace: public, each in another /16, like those of unrelated nodes."""
        return f"{_FIRST_NET + index}.77.0.1"

    def enter(self, index: int) -> list[str]:
        """The words before a command that run it in a namespace."""
        return ["ip", "netns", "exec", self._names[index]]

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            for name in self._names:
                _ip("netns", "add", name)
                undo.callback(_ip, "netns", "del", name)
            command = [sys.executable, "-m", "bench.lossy_wire", *self._options, *self._names]
            process = undo.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            undo.callback(process.terminate)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", "the wire did not start"
            for index, name in enumerate(self._names):
                _ip("-n", name, "addr", "add", f"{self.address(index)}/32", "dev", _DEVICE)
                for device in ("lo", _DEVICE):
                    _ip("-n", name, "link", "set", device, "up")
                _ip("-n", name, "route", "add", "default", "dev", _DEVICE)
            self._cleanup = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


# --- the process that carries the frames --------------------------------------------------------------------


def _open_tap(namespace: str) -> int:
    """Open a TAP device in another namespace; its descriptor works in this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(_NAMESPACES / namespace, os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _TAP_WITHOUT_HEADER))
        if libc.setns(home, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns back")
    finally:
        os.close(there)
        os.close(home)
    return tap


class _Switch:
    """The frames in transit, and the device of each hardware address."""

    def __init__(self, taps: list[int], delay_s: float, loss: float, mbit: float | None) -> None:
        self._taps = taps
        self._delay_s = delay_s
        self._loss = loss
        self._byte_s = 0.0 if mbit is None else 8 / (mbit * 1e6)
        self._sent_s = dict.fromkeys(taps, 0.0)  # when the last frame of each device has left
        self._where: dict[bytes, int] = {}
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._random = random.Random(1)

    def take(self, tap: int) -> None:
        """Take a frame from a device and put it in transit."""
        frame = os.read(tap, _FRAME_BYTES)
        self._where[frame[6:12]] = tap
        now_s = time.monotonic()
        starts_s = max(now_s, self._sent_s[tap])
        if self._random.random() < self._loss or starts_s - now_s > _QUEUE_S:
            return
        self._sent_s[tap] = starts_s + len(frame) * self._byte_s
        target = self._where.get(frame[:6])
        for other in self._taps if target is None else [target]:
            if other != tap:
                self._count += 1
                due_s = self._sent_s[tap] + self._delay_s
                heapq.heappush(self._under_way, (due_s, self._count, other, frame))

    def deliver(self) -> float:
        """Deliver due frames. Returns the seconds until the next is due."""
        while self._under_way:
            wait_s = self._under_way[0][0] - time.monotonic()
            if wait_s > 0:
                return wait_s
            _, _, tap, frame = heapq.heappop(self._under_way)
            # A device that is down, or full: the frame is lost, as on a real wire.
            with contextlib.suppress(OSError):
                os.write(tap, frame)
        return 1.0


def main() -> None:
    """Carry frames until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, required=True)
    parser.add_argument("--loss", type=float, required=True)
    parser.add_argument("--mbit", type=float)
    parser.add_argument("namespaces", nargs="+")
    options = parser.parse_args()
    taps = [_open_tap(name) for name in options.namespaces]
    switch = _Switch(taps, options.delay, options.loss, options.mbit)
    print("ready", flush=True)
    with select.epoll() as poll:
        for descriptor in (0, *taps):
            poll.register(descriptor, select.EPOLLIN)
        while True:
            for descriptor, _ in poll.poll(switch.deliver()):
                if descriptor == 0:
                    return
                switch.take(descriptor)


if __name__ == "__main__":
    main()
