"""All rules, each table with the network that it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.hostile import (
    rules_exchange,
    rules_handshake,
    rules_header,
    rules_link,
    rules_message,
    rules_replies,
    rules_services,
    rules_tunnel,
)
from tests.hostile.network import MemoryNetwork
from tests.hostile.rules import Rule

__all__ = ["TABLES", "Table"]


@dataclass(frozen=True)
class Table:
    """Rules that are broken in one network."""

    name: str
    rules: tuple[Rule, ...]
    network: Callable[[], MemoryNetwork] = MemoryNetwork


TABLES: Final = (
    Table("handshake", rules_handshake.RULES),
    Table("link", rules_link.RULES),
    Table("header", rules_header.RULES),
    Table("message", rules_message.RULES),
    Table("tunnel", rules_tunnel.RULES),
    Table("replies", rules_replies.RULES),
    Table("exchange", rules_exchange.RULES, rules_exchange.learning_network),
    Table("services", rules_services.RULES, rules_services.serving_network),
)
