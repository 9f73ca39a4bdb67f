"""Scenarios that run with each kind of client: for threads, for services, for asyncio.

A scenario is a generator that takes the client and yields calls: `reply = yield lambda: client.ask(...)`. The
kinds differ only in how they wait for a call: for its future, with `yield from`, or with `await`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeAlias

from reactor import Service
from tests.support.network import PATIENCE_S, wait_until_idle
from tunnel import LocalNetwork
from tunnel.client import Client, ServiceClient
from tunnel.client.aio import AsyncClient

__all__ = ["KINDS", "Scenario", "play", "run"]

_Outcome: TypeAlias = tuple[Any, BaseException | None]
Scenario: TypeAlias = Callable[[Any], Generator[Callable[[], Any], Any, Any]]


def play(kind: str, net: LocalNetwork, scenario: Scenario) -> Any:
    """Run a scenario as node 0 of a network. Returns its result."""
    return KINDS[kind](net, scenario)


def run(kind: str, net: LocalNetwork, scenario: Scenario) -> Any:
    """Run a scenario, then wait until no node has work left. Returns the scenario's result."""
    result = play(kind, net, scenario)
    wait_until_idle(net)
    return result


def _raw_steps(scenario: Generator[Callable[[], Any], Any, Any]) -> Generator[Any, Any, Any]:
    """Make the calls of a scenario: yield what each returns, and receive its outcome."""
    outcome: _Outcome = yield None
    while True:
        value, error = outcome
        try:
            call = scenario.send(value) if error is None else scenario.throw(error)
        except StopIteration as stop:
            return stop.value
        try:
            pending = call()
        except Exception as error:  # noqa: BLE001 - thrown into the scenario
            outcome = (None, error)
            continue
        outcome = yield pending


def _steps(scenario: Generator[Callable[[], Any], Any, Any]) -> Generator[Any, Any, Any]:
    steps = _raw_steps(scenario)
    next(steps)
    return steps


def _in_threads(net: LocalNetwork, scenario: Scenario) -> Any:
    steps = _steps(scenario(Client(net[0])))
    outcome: _Outcome = (None, None)
    while True:
        try:
            pending = steps.send(outcome)
        except StopIteration as stop:
            return stop.value
        try:
            outcome = (pending.result(PATIENCE_S) if isinstance(pending, Future) else pending, None)
        except Exception as error:  # noqa: BLE001 - thrown into the scenario
            outcome = (None, error)


def _in_services(net: LocalNetwork, scenario: Scenario) -> Any:
    def run() -> Service[Any]:
        steps = _steps(scenario(ServiceClient(net[0])))
        outcome: _Outcome = (None, None)
        while True:
            try:
                pending = steps.send(outcome)
            except StopIteration as stop:
                return stop.value
            try:
                outcome = ((yield from pending) if isinstance(pending, Generator) else pending, None)
            except Exception as error:  # noqa: BLE001 - thrown into the scenario
                outcome = (None, error)

    return net.submit(run()).result(PATIENCE_S)


def _in_asyncio(net: LocalNetwork, scenario: Scenario) -> Any:
    async def run() -> Any:
        async with AsyncClient(net[0]) as client:
            steps = _steps(scenario(client))
            outcome: _Outcome = (None, None)
            while True:
                try:
                    pending = steps.send(outcome)
                except StopIteration as stop:
                    return stop.value
                try:
                    outcome = (await pending if asyncio.iscoroutine(pending) else pending, None)
                except Exception as error:  # noqa: BLE001 - thrown into the scenario
                    outcome = (None, error)

    return asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


KINDS: dict[str, Callable[[LocalNetwork, Scenario], Any]] = {
    "threads": _in_threads,
    "services": _in_services,
    "asyncio": _in_asyncio,
}
