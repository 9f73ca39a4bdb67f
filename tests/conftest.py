"""Settings shared by all tests: hypothesis profiles, and which tests run.

`pytest` alone runs tests that take 90 seconds on two cores. `--full` adds the tests marked `full`; so does
naming a file, folder or test. `--run-slow` adds the tests marked `slow`. `.ci/run` uses `--full`.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# `HYPOTHESIS_PROFILE=thorough pytest` for a long search; `.ci/run` takes "ci".
settings.register_profile("short", max_examples=30, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None)
settings.register_profile(
    "thorough", max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


# A shell starts a background job with SIGINT ignored. The commands that tests start would inherit that, and
# tests of Ctrl-C would fail.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Programs that the tests start run this checkout, whether it is installed or not.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run tests marked full as well")
    parser.addoption("--run-slow", action="store_true", help="run tests marked full or slow as well")


def pytest_configure(config: pytest.Config) -> None:
    # Processes of pytest-xdist always have the paths as arguments; they get this option from their parent.
    is_named = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    if is_named and not hasattr(config, "workerinput"):
        config.option.full = True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Refuse cases in a set: each process of pytest-xdist would number them in another order."""
    for marker in metafunc.definition.iter_markers("parametrize"):
        if isinstance(marker.args[-1], set | frozenset):
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: cases in a set: write sorted(…)")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Leave long bytes out of ids: random ones would give each process of pytest-xdist other tests."""
    return f"{argname}-of-{len(val)}" if isinstance(val, bytes) and len(val) > 16 else None


def pytest_collection_finish() -> None:
    """Exclude the collected tests from garbage collection, which many tests run."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if " at 0x" in item.name:
            raise pytest.UsageError(f"{item.nodeid}: an address in an id differs in each process: give ids")
    if config.getoption("--run-slow"):
        return
    if not config.getoption("--full"):
        left_out = [item for item in items if "full" in item.keywords]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if "full" not in item.keywords]
    skip = pytest.mark.skip(reason="slow: give --run-slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
