"""Bob's end of an established tunnel: its chunks are carried, and the inner service uses it."""

from __future__ import annotations

import logging

from reactor import Service, Signal
from reactor.errors import log_failure
from tunnel.errors import ErrorCode, PeerError, ServiceFailed
from tunnel.established import End, EstablishedTunnel
from tunnel.node.context import NodeContext, Stream
from tunnel.node.relay import guarded
from tunnel.node.statuses import Reporter
from tunnel.node.sub_streams import serve_streams, service_handler
from tunnel.node.tunnels import NodeTunnel, carry
from tunnel.onion.header import Slot
from tunnel.services.base import run_service

__all__ = ["tunnel_service"]

log = logging.getLogger("tunnel.node")


def tunnel_service(
    node: NodeContext, stream: Stream, slot: Slot, first: memoryview, reporter: Reporter
) -> Service[None]:
    """Serve one tunnel to its end.

    Args:
        first: its first chunk, the HELLO.
    Raises:
        PeerError: the stream broke, or what came is no tunnel. ServiceFailed: the inner service raised
            something else; logged.
    """
    core = EstablishedTunnel(
        slot.seed,
        stream.profile.geometry,
        End.BOB,
        engine=node.engine,
        make_notifier=Signal,
        limits=node.limits.tunnel,
    )
    tunnel = NodeTunnel(core)
    failed: list[ServiceFailed] = []

    def use() -> Service[None]:
        try:
            yield from run_service(node.service.tunnel, tunnel)
            yield from tunnel.stop_sending()
            # Else an other end that still writes would wait for ever.
            yield from tunnel.drain()
        except PeerError as error:
            core.give_up(error.code)
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - also a user's sys.exit() ends no node
            log_failure(
                log, error, "node %s: inner service %s failed", node.name, type(node.service).__name__
            )
            core.give_up(ErrorCode.SERVICE_FAILED)
            # Its end travels to Alice in the tunnel; the status follows that.
            failed.append(ServiceFailed(f"inner service failed: {type(error).__name__}"))

    def carry_on() -> Service[None]:
        yield from carry(node, stream, core, first=first)
        tunnel.end()

    handler = service_handler(node.service, node.limits)
    streams = serve_streams(tunnel.accept, handler, most=2 * node.limits.tunnel.sub_streams)
    yield from guarded(carry_on(), use(), streams)
    if failed:
        raise failed[0]
    yield from reporter.succeed()
