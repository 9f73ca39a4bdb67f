"""Hints for misplaced or mistyped names in a configuration.

Example: for a table `[reverse]` the hint is that `reverse` belongs in [service]; for a key `listen` before
the first table, that it belongs in [node]. The name may be that of a table, a key or a built-in service.
"""

from __future__ import annotations

import difflib
from typing import Any, Final

from tunnel.arguments import did_you_mean
from tunnel.config.repeated import REPEATED
from tunnel.config.settings import ENVIRONMENT_PREFIX, SERVICES, SETTINGS, TABLES

__all__ = ["KEYS", "advice_for_key", "advice_for_table", "advice_for_variable"]

_WRITTEN: Final = {name: f"[{name}]" for name in TABLES} | {name: f"[[{name}]]" for name in REPEATED}
KEYS: Final[dict[str, list[str]]] = {f"[{name}]": [] for name in TABLES} | {
    f"[[{name}]]": [setting.key for setting in table.rows] for name, table in REPEATED.items()
}
"""The keys of each table, by its name as it is written."""
for _setting in SETTINGS:
    KEYS[f"[{_setting.table}]"].append(_setting.key)
_ALL_KEYS: Final = sorted({key for keys in KEYS.values() for key in keys})


def advice_for_table(name: str) -> str:
    """The hint for a table that does not exist."""
    if name in _ALL_KEYS:
        return f"{name} {_belongs(name)}"
    if name in SERVICES:
        return f'a built-in service is listed in [service]: names = ["{name}"]'
    near = difflib.get_close_matches(name, [*_WRITTEN, *_ALL_KEYS], 1)
    if not near:
        return f"there are {', '.join(_WRITTEN.values())}"
    if near[0] in _WRITTEN:
        return f"did you mean {_WRITTEN[near[0]]}?"
    return f"did you mean {near[0]}? It {_belongs(near[0])}"


def advice_for_key(table: str, key: str, value: Any) -> str:
    """The hint for a key that a table does not have. Args: table: as it is written, "[node]"."""
    if key in _WRITTEN and (isinstance(value, dict | list) or key not in _ALL_KEYS):
        return f"{key} is a table: write {_WRITTEN[key]} on a separate line"
    if key in _ALL_KEYS:
        return f"{key} {_belongs(key)}"
    return did_you_mean(key, KEYS[table]) or f"{table} has {', '.join(KEYS[table])}"


def advice_for_variable(name: str) -> str:
    """The hint for a variable of the environment that no setting has."""
    rest = name.removeprefix(ENVIRONMENT_PREFIX)
    for table in REPEATED:
        if rest.startswith(f"{table.upper()}_"):
            return f"[[{table}]] is possible only in the configuration file"
    same_key = [each.variable for each in SETTINGS if f"_{rest}".endswith(f"_{each.key.upper()}")]
    if same_key:
        return f"did you mean {' or '.join(same_key)}?"
    return did_you_mean(name, [each.variable for each in SETTINGS])


def _belongs(key: str) -> str:
    tables = [table for table, keys in KEYS.items() if key in keys]
    return f"belongs in {' or '.join(tables)}"
