"""Fuzzing of every parser and state machine: `python -m tests.fuzz`, see tests/fuzz/__main__.py."""

from typing import Final

ENGINE_VARIABLE: Final = "MTUN_FUZZ_ENGINE"
"""Names the engine in the environment. Here, since the product is to be loaded after atheris."""
