"""One service with a state, run by each spawner in turn; each takes over the state of the one before."""

from contextlib import ExitStack

from reactor import (
    Blocker,
    Coroutine,
    Reactor,
    Restart,
    Service,
    SharedChannel,
    ThreadPark,
    ThreadPool,
    serve,
)
from reactor.run.spawners import Spawner


class WordCount:
    """A command is a line of text, the answer the number of words so far."""

    def __init__(self) -> None:
        self.words = 0

    def call(self, line: str) -> Service[int]:
        self.words += len(line.split())
        return self.words
        yield  # makes it a generator; this service never waits


def ask(spawner: Spawner, counter: WordCount, line: str) -> Service[tuple[int, WordCount]]:
    """Start the service, give it one command, and take its state back."""
    commands: SharedChannel[str] = SharedChannel(1)
    answers: SharedChannel[int] = SharedChannel(1)
    yield from commands.send(line)
    handle = spawner.spawn(serve(counter, commands, answers, limit=1))
    answer = yield from answers.receive()
    yield from handle.join()
    return answer, handle.take()


with ExitStack() as stack:
    reactor = stack.enter_context(Reactor())
    pool = stack.enter_context(ThreadPool(2))
    restart = stack.enter_context(Restart())
    counter = WordCount()
    for spawner in (Blocker(), Coroutine(reactor), ThreadPark(), pool, restart):
        words, counter = reactor.run(ask(spawner, counter, "the same service"))
        print(f"{type(spawner).__name__}: {words} words")
