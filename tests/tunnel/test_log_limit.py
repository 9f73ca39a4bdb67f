"""Log lines that strangers can cause: a few lines, then a count."""

from __future__ import annotations

import logging

import pytest

from tunnel.node.log_limit import LINES, PERIOD_S, LogLimit


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_flood_of_lines_becomes_a_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    limit = LogLimit(logging.getLogger("tunnel.node"), "0102", clock)
    for number in range(5_000):
        limit.warning("refused a connection", f"reason {number}")
    limit.warning("lost a link", "another event has its own lines")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == LINES + 1
    assert lines[0] == "node 0102 refused a connection: reason 0"
    assert lines[-1] == "node 0102 lost a link: another event has its own lines"
    caplog.clear()
    clock.now_s += PERIOD_S
    limit.tell()
    (count,) = [record.getMessage() for record in caplog.records]
    assert f"refused a connection {5_000 - LINES:,}".replace(",", "") in count
    assert "in 10 s" in count
    caplog.clear()
    limit.tell()
    limit.warning("refused a connection", "a new period begins")
    assert [record.getMessage() for record in caplog.records] == [
        "node 0102 refused a connection: a new period begins"
    ]


def test_levels_are_counted_apart(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    limit = LogLimit(logging.getLogger("tunnel.node"), "0102", Clock())
    for _ in range(1_000):
        limit.log(logging.INFO, "ended a frame", "expected")
    limit.warning("ended a frame", "this one matters")
    assert caplog.records[-1].getMessage() == "node 0102 ended a frame: this one matters"


def test_failures_of_services_have_a_limit_too(caplog: pytest.LogCaptureFixture) -> None:
    """A stranger who finds the input on which a service fails writes no traceback with each query."""
    clock = Clock()
    limit = LogLimit(logging.getLogger("tunnel.node"), "0102", clock)
    for _ in range(1_000):
        limit.failure("failed in an inner service", ValueError("bad input"), "inner service Echo failed")
    assert [record.getMessage() for record in caplog.records] == [
        "node 0102: inner service Echo failed"
    ] * LINES
    assert all(record.exc_info for record in caplog.records)
    caplog.clear()
    clock.now_s += PERIOD_S
    limit.tell()
    assert "failed in an inner service 980 more times" in caplog.text
