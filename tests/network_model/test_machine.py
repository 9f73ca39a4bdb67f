"""Hypothesis drives a network of nodes: a short run by default, a long one with the tests marked `full`."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.network_model.machine import NetworkMachine

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def test_a_few_steps() -> None:
    run_state_machine_as_test(
        NetworkMachine,
        settings=settings(
            max_examples=4,
            stateful_step_count=15,
            deadline=None,
            derandomize=True,
            suppress_health_check=_QUIET,
        ),
    )


@pytest.mark.full
def test_many_steps() -> None:
    examples = int(os.environ.get("MODEL_EXAMPLES", "20"))
    run_state_machine_as_test(
        NetworkMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            suppress_health_check=_QUIET,
        ),
    )
