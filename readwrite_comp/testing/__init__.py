"""The hostile-stream kit: exposes any layer or stack to everything that a stream may do.

`check_ext_pair(make_pair)` is the whole kit; property tests drive the single checks with their own choices.
A broken promise raises `KitFailure`, an `AssertionError` that describes the steps. The kit needs no test
framework.

A *script* is how a stream misbehaves: one number for each call, the most bytes that the call handles; 0
refuses it (`BlockingIOError`), -1 breaks it (an `OSError`). After its last number the stream behaves. An
endless iterator may be used if it is not all zeros. *Splits* are the sizes of the pieces in which content is
offered or requested, used in a cycle.

A hang is a failure: streams and drivers count calls and give up long after any correct layer is done.
"""

from readwrite_comp.testing.checks import (
    check_abandoned_write,
    check_at_hand,
    check_broken_stream,
    check_corruption,
    check_early_end,
    check_ext_pair,
    check_memory,
    check_misuse,
    check_round_trip,
    check_runs,
    check_truncation,
    check_work,
)
from readwrite_comp.testing.streams import (
    HostileReader,
    HostileWriter,
    KitFailure,
    MakePair,
    ReadResult,
    read_message,
    write_message,
)

__all__ = [
    "HostileReader",
    "HostileWriter",
    "KitFailure",
    "MakePair",
    "ReadResult",
    "check_abandoned_write",
    "check_at_hand",
    "check_broken_stream",
    "check_corruption",
    "check_early_end",
    "check_ext_pair",
    "check_memory",
    "check_misuse",
    "check_round_trip",
    "check_runs",
    "check_truncation",
    "check_work",
    "read_message",
    "write_message",
]
