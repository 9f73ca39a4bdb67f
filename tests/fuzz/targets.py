"""All fuzz targets: importing this module fills the table."""

from __future__ import annotations

from tests.fuzz import (
    control_targets,
    directory_targets,
    engine_targets,
    established_targets,
    file_targets,
    frame_targets,
    front_targets,
    handshake_targets,
    layer_targets,
    link_targets,
    onion_targets,
    service_targets,
)
from tests.fuzz.target import TARGETS

__all__ = ["ROOMS", "TARGETS"]

ROOMS = (
    layer_targets,
    link_targets,
    handshake_targets,
    onion_targets,
    frame_targets,
    established_targets,
    front_targets,
    service_targets,
    control_targets,
    directory_targets,
    file_targets,
    engine_targets,
)
