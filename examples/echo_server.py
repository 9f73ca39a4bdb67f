"""An echo server on the reactor alone: one service per connection, limits, and an orderly stop.

`python echo_server.py` starts the server, sends it two texts and stops it, over real TCP. `python
echo_server.py PORT` serves clients such as `nc 127.0.0.1 PORT` until Ctrl-C or SIGTERM. Then it stops
listening, closes all connections and prints the number of echoed bytes. `kill -USR1 PID` shows what each
connection waits for.
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

IDLE_S = 300.0  # a connection without input for this time is closed
MOST_CONNECTIONS = 10_000  # further connections are closed immediately


class Server:
    """Accepts connections and counts the echoed bytes."""

    def __init__(self, listener: TcpListener) -> None:
        self.listener = listener
        self.echoed_bytes = 0
        # The failure of one connection does not end the others.
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
                pass  # the client has gone or is idle: close the connection


def ask(port: int, text: bytes) -> Service[bytes]:
    """Send a text, end the sending half, and read the whole answer."""
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
        print(f"sent {len(text)} bytes, received the same: {answer == text}")
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
