"""Gives path parameters the values that an endpoint of FastAPI's sees: ``/i/07`` is ``/i/7`` where it takes an ``int``.

FastAPI converts them after the policy was asked. What a question is about is therefore converted here, in the same way.
FastAPI is not imported; where nobody did, there is nothing of it.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from ..errors import MalformedInput
from .framework import DEPTH

#: Fields of FastAPI's by the name of their path parameter: of the endpoint itself, or else of its dependencies.
Typed = Mapping[str, tuple[Any, ...]]
#: The types whose values have an agreed text, and what becomes one of them.
_KNOWN: Final = (
    *(str, bool, int, float, UUID, Decimal, enum.Enum),
    *(datetime.date, datetime.datetime, datetime.time),
)


def typed_parameters(route: Any) -> Typed | None:
    """Return the fields that convert path parameters of ``route``; ``None`` where all are text as it comes."""
    dependant = getattr(route, "dependant", None)
    if dependant is None:
        return None
    fields: dict[str, list[Any]] = {}
    for field in _fields(dependant):
        fields.setdefault(field.alias, []).append(field)
    typed = {name: tuple(own) for name, own in fields.items() if not all(map(_is_text, own))}
    return typed or None


def converted(params: Any, typed: Typed) -> Any:
    """Return ``params`` as an endpoint sees them, as text.

    What it does not take stays as it is: it is answered 422, and the endpoint does not run. Raises
    :class:`~capgate.errors.MalformedInput` where a value has no agreed text, or dependencies see another one.
    """
    changed = dict(params)
    for name, fields in typed.items():
        if name not in params:
            continue
        texts = set()
        for field in fields:
            value, errors = field.validate(params[name], {}, loc=("path", name))
            texts.add(str(params[name]) if errors else _text(name, value))
        if len(texts) > 1:
            raise MalformedInput(f"the path parameter {name!r} is converted in several ways")
        changed[name] = texts.pop()
    return changed


def unknown_parameters(typed: Typed | None) -> frozenset[str]:
    """Return the path parameters of ``typed`` whose values have no agreed text, so that whatever is sent is denied."""
    names = set()
    for name, fields in (typed or {}).items():
        types = (getattr(getattr(field, "field_info", None), "annotation", None) for field in fields)
        if any(isinstance(of, type) and not issubclass(of, _KNOWN) for of in types):
            names.add(name)
    return frozenset(names)


def _fields(dependant: Any, depth: int = 0) -> Iterator[Any]:
    yield from dependant.path_params
    if depth < DEPTH:
        for inner in dependant.dependencies:
            yield from _fields(inner, depth + 1)


def _is_text(field: Any) -> bool:
    info = getattr(field, "field_info", None)
    return getattr(info, "annotation", None) is str and not getattr(info, "metadata", None)


def _text(name: str, value: Any) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is float or kind is UUID:
        return str(value)
    if kind is Decimal and value.is_finite():
        return format(value.normalize(), "f")
    if kind is datetime.date or kind is datetime.datetime or kind is datetime.time:
        return str(value.isoformat())
    raise MalformedInput(f"the path parameter {name!r} is a {kind.__name__}, which has no agreed text")
