"""Gives path parameters the values that an endpoint of FastAPI's sees: ``/i/07`` is ``/i/7`` where it takes an ``int``.

FastAPI converts them after the policy was asked. What a question is about is therefore converted here, in the same way.
FastAPI is not imported; where nobody did, there is nothing of it.
"""

from __future__ import annotations

import datetime
import enum
import types
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from uuid import UUID

from ..errors import MalformedInput
from .framework import DEPTH

#: The types of a path parameter of which each value has one text, see :func:`as_text`.
_TEXTS: Final = frozenset({str, bool, int, float, UUID, Decimal, datetime.date, datetime.datetime, datetime.time})
_UNIONS: Final = frozenset({Union, getattr(types, "UnionType", Union)})
#: The types of a path parameter that is a fact as it is.
_FACTS: Final = frozenset({bool, int, float, str})

#: Fields of FastAPI's by the name of their path parameter: of the endpoint itself, or else of its dependencies.
Typed = Mapping[str, tuple[Any, ...]]


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


class ConvertedParameters(dict[str, Any]):
    """Path parameters as text, and in ``seen`` as an endpoint sees them."""

    seen: Mapping[str, Any]


def as_seen(params: Any) -> Mapping[str, Any]:
    """Return ``params``, converted or not, as an endpoint sees them; none where no route was reached."""
    seen: Mapping[str, Any] = params.seen if type(params) is ConvertedParameters else {} if params is None else params
    return seen


def as_fact(name: str, value: Any) -> Any:
    """Return a path parameter as a fact: a flag, a number, or text.

    Raises :class:`~capgate.errors.MalformedInput` where it has no agreed text.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    return value if type(value) in _FACTS else as_text(name, value)


def converted(params: Any, typed: Typed) -> Any:
    """Return ``params`` as an endpoint sees them, as text: :class:`ConvertedParameters`.

    What it does not take stays as it is: it is answered 422, and the endpoint does not run. In place of a value that
    has no agreed text, or of which dependencies see another one, stands the :class:`~capgate.errors.MalformedInput` for
    whoever asks about it.
    """
    changed, seen = ConvertedParameters(params), dict(params)
    changed.seen = seen
    for name, fields in typed.items():
        if name not in params:
            continue
        texts = set()
        try:
            for field in fields:
                value, errors = field.validate(params[name], {}, loc=("path", name))
                if not errors:
                    seen[name] = value
                texts.add(str(params[name]) if errors else as_text(name, value))
        except MalformedInput as error:
            changed[name] = error
            continue
        if len(texts) > 1:
            changed[name] = seen[name] = MalformedInput(f"the path parameter {name!r} is converted in several ways")
        else:
            changed[name] = texts.pop()
    return changed


def _fields(dependant: Any, depth: int = 0) -> Iterator[Any]:
    yield from dependant.path_params
    if depth < DEPTH:
        for inner in dependant.dependencies:
            yield from _fields(inner, depth + 1)


def uncertain_parameters(route: Any, names: Collection[str]) -> dict[str, str]:
    """Return why it is not certain what an endpoint sees, for each of ``names`` for which it is not.

    Whether a value has an agreed text is known of the types that nearly all endpoints take. Of others it is looked at
    in each request, and one without is denied.
    """
    problems = {}
    for name, fields in (typed_parameters(route) or {}).items():
        if name not in names:
            continue
        infos = [getattr(field, "field_info", None) for field in fields]
        seen = {_shown_type(getattr(info, "annotation", None)) for info in infos}
        odd = [type_ for info in infos if not _has_text(type_ := getattr(info, "annotation", None))]
        if odd:
            problems[name] = f"is a {_shown_type(odd[0])}, of which it is not known that it has one text"
        elif len(seen) > 1:
            problems[name] = f"is taken in several ways ({', '.join(sorted(seen))})"
    return problems


def _has_text(annotation: Any, depth: int = 0) -> bool:
    """Say whether each value of a type is known to have one text."""
    if depth > DEPTH:
        return False
    annotation = getattr(annotation, "__supertype__", annotation)  # of a NewType
    if isinstance(annotation, type):
        return annotation in _TEXTS or issubclass(annotation, enum.Enum)
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return all(type(value) in _TEXTS or isinstance(value, enum.Enum) for value in inside)
    if origin is Annotated:
        return _has_text(inside[0], depth + 1)
    return origin in _UNIONS and all(_has_text(part, depth + 1) for part in inside if part is not type(None))


def _shown_type(annotation: Any) -> str:
    name = getattr(annotation, "__name__", None)
    return name if isinstance(name, str) else str(annotation)


def _is_text(field: Any) -> bool:
    info = getattr(field, "field_info", None)
    return getattr(info, "annotation", None) is str and not getattr(info, "metadata", None)


def as_text(name: str, value: Any) -> str:
    """Return a path parameter as text. Raises :class:`~capgate.errors.MalformedInput` where it has no agreed one."""
    if isinstance(value, MalformedInput):
        raise value
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
