"""Work and memory, by counting: calls of the stream grow linearly with the bytes, and the memory of layers
does not grow with the message. The kit tests single layers; these tests are for stacks.
"""

from __future__ import annotations

import pytest

from readwrite_comp.testing import check_memory, check_runs, check_work

from .pairs import LAYERS, stack_of

STACKS = [
    ["sealed", "escape", "padded"],
    ["padded", "wide_block", "sized_written", "sealed"],
    ["stream_cipher", "stream_cipher", "end_stream", "sealed", "padded_zero", "identity"],
    ["wide_block", "wide_block_inverse", "wide_block_hctr", "sized", "escape", "end_stream"],
]


@pytest.mark.full
@pytest.mark.parametrize(
    "names", [*STACKS[:-1], pytest.param(STACKS[-1], marks=pytest.mark.full)], ids="-".join
)
def test_memory_and_work_of_stacks(names: list[str]) -> None:
    check_memory(stack_of(names), 10_000)
    check_work(stack_of(names), 10_000)


@pytest.mark.full
@pytest.mark.parametrize("names", [["sealed"], ["sealed", "padded_zero"], ["escape", "sealed"]], ids="-".join)
def test_no_run_of_a_sealed_message_may_be_moved(names: list[str]) -> None:
    # Chunks have 36 bytes on the wire, those of the short message 22.
    check_runs(stack_of(names), bytes(range(50)), authenticated=True, lengths=(1, 22, 36, 72))


@pytest.mark.full
@pytest.mark.parametrize("name", LAYERS)
def test_runs_of_a_layer(name: str) -> None:
    check_runs(stack_of([name]), bytes(range(20)), authenticated=name.startswith("sealed"), lengths=(2, 7))
