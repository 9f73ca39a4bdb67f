"""Fixture: each kind of client in turn."""

from __future__ import annotations

import pytest

from tests.integration.client_kinds import KINDS


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name
