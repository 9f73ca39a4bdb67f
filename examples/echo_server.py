"""An echo server on the reactor alone: one service per connection, a clean end, a limit on who may wait.

`python echo_server.py` starts it, talks to it and ends it, over real TCP. `python echo_server.py PORT` serves
anybody with `nc 127.0.0.1 PORT` until Ctrl-C (or SIGTERM): it stops listening, closes each connection and
says how much it has echoed. `kill -USR1` its process to see what every connection waits for.
"""

import sys

from reactor import (
    Broken,
    Reactor,
    ReadYield,
    Scope,
    Service,
    SocketStream,
    Spawn,
    TcpListener,
    TimedOut,
    WriteYield,
    connect_tcp,
    run_main,
    timeout_after,
)

IDLE_S = 300.0  # a connection that says nothing for so long is closed
MOST_CONNECTIONS = 10_000  # more are closed at once


class Server:
    """Accepts connections and counts what they say."""

    def __init__(self, listener: TcpListener) -> None:
        self.listener = listener
        self.echoed_bytes = 0
        # One connection's failure is no news for the others.
        self._connections = Scope("connections", fail_together=False)

    def run(self) -> Service[None]:
        """Serve until cancelled."""
        try:
            while True:
                stream = yield from self.listener.accept()
                if len(self._connections) < MOST_CONNECTIONS:
                    yield from self._connections.spawn(self._serve(stream), name=f"echo {stream.fileno()}")
                else:
                    stream.close()
        finally:
            self.listener.close()
            yield from self._connections.close()
            print(f"echoed {self.echoed_bytes} bytes", flush=True)

    def _serve(self, stream: SocketStream) -> Service[None]:
        reader, writer = ReadYield(stream), WriteYield(stream)
        with stream:  # however it ends
            try:
                while data := (yield from timeout_after(IDLE_S, reader.read())):
                    yield from writer.write_all(data)
                    self.echoed_bytes += len(data)
            except (Broken, TimedOut):
                pass  # the other side is gone, or says nothing: nobody is left to be told


def ask(port: int, text: bytes) -> Service[bytes]:
    """Send a text, say that it was all, and read until the server has no more."""
    with (yield from connect_tcp("127.0.0.1", port)) as stream:
        yield from WriteYield(stream).write_all(text)
        stream.shutdown_write()
        reader, answer = ReadYield(stream), b""
        while data := (yield from reader.read()):
            answer += data
        return answer


def scene(server: Server) -> Service[None]:
    serving = yield Spawn(server.run(), "server")
    port = server.listener.address[1]
    for text in (b"hello", b"x" * 1_000_000):
        answer = yield from ask(port, text)
        print(f"sent {len(text)} bytes, the same came back: {answer == text}")
    serving.cancel()


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else None
    with Reactor() as reactor, TcpListener("127.0.0.1", port or 0) as listener:
        server = Server(listener)
        if port is None:
            reactor.run(scene(server))
            return
        print(f"listening at port {listener.address[1]}", flush=True)
        run_main(reactor, server.run(), name="server")


if __name__ == "__main__":
    main()
