"""Every public name has a docstring, which names the errors that its own code raises.

Public names are those that a package's `__init__` exports, and of each class its methods and properties
without an underscore. A method that overrides another may inherit its docstring.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import reactor
import readwrite_comp
import readwrite_comp.base
import readwrite_comp.errors
import readwrite_comp.helpers
import readwrite_comp.inplace
import readwrite_comp.limiters
import readwrite_comp.primitives
import readwrite_comp.testing
import readwrite_comp.wideblock
import tunnel
import tunnel.client
import tunnel.client.aio
import tunnel.services

PACKAGES = (
    readwrite_comp,
    readwrite_comp.base,
    readwrite_comp.errors,
    readwrite_comp.helpers,
    readwrite_comp.inplace,
    readwrite_comp.limiters,
    readwrite_comp.primitives,
    readwrite_comp.testing,
    readwrite_comp.wideblock,
    reactor,
    tunnel,
    tunnel.client,
    tunnel.client.aio,
    tunnel.services,
)


def public_objects(package: ModuleType) -> Iterator[tuple[str, Any]]:
    """Give every public class and function, and their public members, with their full names."""
    for name in package.__all__:
        found = getattr(package, name)
        if not (inspect.isclass(found) or inspect.isfunction(found)):
            continue
        yield f"{package.__name__}.{name}", found
        if inspect.isclass(found):
            for member_name, member in vars(found).items():
                if not member_name.startswith("_") and _is_callable(member):
                    yield f"{package.__name__}.{name}.{member_name}", (found, member_name, member)


def _is_callable(member: Any) -> bool:
    return isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(member)


def _function_of(member: Any) -> Callable[..., Any] | None:
    if isinstance(member, property):
        return member.fget
    if isinstance(member, classmethod | staticmethod):
        return member.__func__ if inspect.isfunction(member.__func__) else None
    # A builtin, such as a clock, has no Python source.
    return member if inspect.isfunction(member) else None


def _doc(found: Any) -> str:
    """The docstring, for a member also that of what it overrides."""
    if isinstance(found, tuple):
        owner, name, member = found
        for base in owner.__mro__:
            own = vars(base).get(name)
            function = _function_of(own)
            if function is not None and function.__doc__:
                return function.__doc__
        return member.__doc__ or ""
    return found.__doc__ or ""


OBJECTS = [entry for package in PACKAGES for entry in public_objects(package)]


def test_every_public_name_has_a_docstring() -> None:
    docs = {name: _doc(found).strip() for name, found in OBJECTS}
    assert len(docs) > 500, "the packages were not looked into"
    assert [name for name, doc in docs.items() if not doc] == []
    # The docstring that `dataclass` makes does not count.
    assert [name for name, doc in docs.items() if re.match(r"\w+\(.*\)( -> .*)?$", doc)] == []


def _own_raises(function: Callable[..., Any]) -> set[str]:
    """The classes that a function's own code raises by name, without its nested functions."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    names = set()
    todo = list(ast.iter_child_nodes(tree))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name))):
                names.add(name)
        todo += ast.iter_child_nodes(node)
    return {name for name in names if name[0].isupper()}


def _unnamed_errors(found: Any) -> list[str]:
    """Errors that the code of a public name raises but its docstring does not name."""
    if inspect.isclass(found):
        # Of a class, its construction.
        function, doc = vars(found).get("__init__") or vars(found).get("__post_init__"), _doc(found)
        if not inspect.isfunction(function) or function.__qualname__.split(".")[0] != found.__name__:
            return []
        doc += function.__doc__ or ""
        if "__dataclass_fields__" in vars(found) and function.__name__ == "__init__":
            function = vars(found).get("__post_init__")
            if function is None:
                return []
    else:
        function, doc = _function_of(found[2] if isinstance(found, tuple) else found), _doc(found)
    if function is None:
        return []
    return sorted(error for error in _own_raises(function) if error not in doc)


def test_every_public_name_documents_what_it_raises() -> None:
    missing = {name: _unnamed_errors(found) for name, found in OBJECTS}
    assert {name: errors for name, errors in missing.items() if errors} == {}
