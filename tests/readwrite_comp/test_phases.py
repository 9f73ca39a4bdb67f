"""The table of phases, and each listed and unlisted pair of it."""

from __future__ import annotations

import itertools

import pytest

from readwrite_comp import LocalLayerError, RemoteLayerError
from readwrite_comp import errors as errors_module
from readwrite_comp.base import TRANSITIONS, Event, Phase, next_phase
from readwrite_comp.errors import InUse, PhaseError


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(Phase, Event)))
def test_every_phase_and_event(phase: Phase, event: Event) -> None:
    listed = TRANSITIONS[phase].get(event)
    if listed is None:
        with pytest.raises(PhaseError, match=phase.name):
            next_phase(phase, event)
    else:
        assert next_phase(phase, event) is listed


def test_shape_of_the_table() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert all(row[Event.RESET] is Phase.NEW for row in TRANSITIONS.values())
    assert [phase for phase, row in TRANSITIONS.items() if Event.CONTENT in row] == [Phase.CONTENT]
    reached = {phase for row in TRANSITIONS.values() for phase in row.values()}
    assert reached == set(Phase)


def test_error_tree_has_two_branches() -> None:
    kinds = {name: getattr(errors_module, name) for name in errors_module.__all__ if name[0].isupper()}
    assert len(kinds) == 11
    for name, kind in kinds.items():
        assert issubclass(kind, errors_module.LayerError)
        if name not in ("LayerError", "LocalLayerError", "RemoteLayerError"):
            assert issubclass(kind, LocalLayerError) != issubclass(kind, RemoteLayerError)
    assert issubclass(InUse, LocalLayerError)
