"""The reactor alone: a server and a client, both generators, on one loop over real TCP."""

from reactor import Reactor, ReadYield, Service, SocketStream, TcpListener, WriteYield, connect_tcp


def serve(listener: TcpListener) -> Service[None]:
    stream = yield from listener.accept()
    yield from shout_back(stream)


def shout_back(stream: SocketStream) -> Service[None]:
    reader, writer = ReadYield(stream), WriteYield(stream)
    buffer = bytearray(4096)
    while count := (yield from reader.readinto(buffer)):
        yield from writer.write_all(bytes(buffer[:count]).upper())
    stream.close()


def ask(host: str, port: int) -> Service[bytes]:
    stream = yield from connect_tcp(host, port)
    yield from WriteYield(stream).write_all(b"are you there?")
    stream.shutdown_write()
    answer, buffer = b"", bytearray(4096)
    while count := (yield from ReadYield(stream).readinto(buffer)):
        answer += buffer[:count]
    stream.close()
    return answer


with Reactor() as reactor:
    listener = TcpListener("127.0.0.1", 0)
    server = reactor.spawn(serve(listener))
    print(reactor.run(ask(*listener.address)).decode())
    reactor.run(server.join())
    listener.close()
