"""What a test counts of a log."""

from __future__ import annotations

import logging

import pytest

__all__ = ["records_of", "texts_of"]


def records_of(caplog: pytest.LogCaptureFixture, least: int = logging.NOTSET) -> list[logging.LogRecord]:
    """The records from level `least` on, but none of slow steps: on a busy machine any step may be slow."""
    return [
        record
        for record in caplog.records
        if record.levelno >= least and "kept the loop for" not in record.getMessage()
    ]


def texts_of(caplog: pytest.LogCaptureFixture, least: int = logging.NOTSET) -> list[str]:
    """The messages of these records."""
    return [record.getMessage() for record in records_of(caplog, least)]
