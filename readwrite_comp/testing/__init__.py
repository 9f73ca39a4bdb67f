"""The hostile-stream kit: puts any layer or stack through everything that a stream may do to it.

Public, since users write layers too. `check_ext_pair(make_pair)` is the whole kit; the single checks are
public as well, so that a property test can drive them with its own choices. It needs no test framework: a
broken promise raises `KitFailure`, an `AssertionError` whose text says what was done.

A *script* is how a stream misbehaves: one number for each call, the most bytes that this call handles; 0
refuses the call (`BlockingIOError`), -1 breaks it (an `OSError`). After its last number the stream behaves.
An endless iterator is fine if it is not all zeros. *Splits* are the sizes of the pieces in which content is
offered or asked for, used round and round.

A hang is a failure, not a wait: streams and drivers count calls, and give up long after any correct layer
would be done.
"""

from readwrite_comp.testing.checks import (
    check_abandoned_write,
    check_at_hand,
    check_broken_stream,
    check_corruption,
    check_early_end,
    check_ext_pair,
    check_extension,
    check_memory,
    check_misuse,
    check_removal,
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
    "check_extension",
    "check_memory",
    "check_misuse",
    "check_removal",
    "check_round_trip",
    "check_runs",
    "check_truncation",
    "check_work",
    "read_message",
    "write_message",
]
