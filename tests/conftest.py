"""Settings shared by all tests: hypothesis profiles and the switch for slow suites."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# CI runs a short form; `HYPOTHESIS_PROFILE=thorough pytest` is the long one.
settings.register_profile("short", max_examples=60, deadline=None)
settings.register_profile(
    "thorough", max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


# A shell starts a background job with SIGINT ignored, and so would be all commands that the tests start:
# none could be ended by Ctrl-C, which is what some tests are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run tests marked slow as well")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes that nobody reads in an id are left out of it: random ones would give each process of
    pytest-xdist other tests.
    """
    return f"{argname}-of-{len(val)}" if isinstance(val, bytes) and len(val) > 16 else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    skip = pytest.mark.skip(reason="slow: give --run-slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
