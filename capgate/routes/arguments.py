"""Says where in a request the arguments of a question are, and reads them from there.

An argument that is not there is absent from the question. What two readers could read differently is denied: a query
parameter or a header that comes twice, and JSON of which readers make different things.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, Union

import msgspec
from starlette.datastructures import QueryParams
from starlette.types import Scope

from ..errors import ConfigError, MalformedInput
from ..facts import weigh_attributes
from ..model import Attribute
from ..policy.strict import StrictDecoder
from .typed_parameters import as_fact, as_seen

_VALID: Final = "'json:/pointer' (RFC 6901), 'query:name', 'path:name' or 'header:name' by the name of the argument"
_NO_NAMES: Final[frozenset[str]] = frozenset()
_POINTER: Final = re.compile(r"(?:/(?:[^/~]|~[01])*)*")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
#: In place of a value that is not there.
_ABSENT: Final = object()


class ArgumentSource(msgspec.Struct, frozen=True):
    """Where an argument is: in the parameter or header ``key``, or at the end of the ``steps`` in the body."""

    name: str
    place: Literal["json", "query", "path", "header"]
    key: str
    steps: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The source as it was written."""
        return f"{self.place}:{self.key}"


def parse_arguments(args: object) -> tuple[ArgumentSource, ...]:
    """Return the sources that ``args`` name: ``{"amount": "json:/amount"}``. Raises :class:`ConfigError`."""
    if not isinstance(args, Mapping):
        raise ConfigError("args", args, f"a mapping with {_VALID}")
    try:
        weigh_attributes("args", dict.fromkeys(args, ""), _NO_NAMES)
    except (TypeError, ValueError) as error:
        raise ConfigError("args", tuple(args), f"names of arguments: {error}") from None
    return tuple(_source(name, text) for name, text in args.items())


def _source(name: str, text: object) -> ArgumentSource:
    place, colon, key = text.partition(":") if isinstance(text, str) else ("", "", "")
    if colon and place == "json" and _POINTER.fullmatch(key):
        return ArgumentSource(name, "json", key, tuple(map(_unescaped, key.split("/")[1:])))
    if place == "header" and _HEADER.fullmatch(key):
        return ArgumentSource(name, "header", key)
    if place == "query" and key:
        return ArgumentSource(name, "query", key)
    if place == "path" and key.isidentifier():
        return ArgumentSource(name, "path", key)
    raise ConfigError(f"args.{name}", text, _VALID)


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


def needs_document(sources: Iterable[ArgumentSource]) -> bool:
    """Say whether the body has to be read for ``sources``."""
    return any(source.place == "json" for source in sources)


def read_arguments(
    sources: Iterable[ArgumentSource], scope: Scope, params: Any, document: object
) -> dict[str, Attribute]:
    """Return the arguments that there are.

    ``params`` are the path parameters, and ``document`` is what :func:`read_document` made of the body. Raises
    :class:`~capgate.errors.MalformedInput` where it is not certain what one of them is.
    """
    args: dict[str, Attribute] = {}
    for source in sources:
        value: Any
        if source.place == "json":
            value = _at(document, source.steps)
        elif source.place == "query":
            value = _only(QueryParams(scope.get("query_string", b"")).getlist(source.key), source)
        elif source.place == "header":
            value = _only(_headers(scope, source.key.lower().encode()), source)
        else:
            value = as_seen(params).get(source.key, _ABSENT)
            value = value if value is _ABSENT else as_fact(source.key, value)
        if value is not _ABSENT and value is not None:
            args[source.name] = value
    return args


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _only(values: list[str], source: ArgumentSource) -> object:
    if len(values) > 1:
        raise MalformedInput(f"{source.text} is there {len(values)} times")
    return values[0] if values else _ABSENT


def _at(document: Any, steps: tuple[str, ...]) -> object:
    """Return what is in ``document`` at the end of ``steps``, by RFC 6901, section 4."""
    for step in steps:
        if type(document) is dict:
            document = document.get(step, _ABSENT)
        elif type(document) is list and _INDEX.fullmatch(step) and int(step) < len(document):
            document = document[int(step)]
        else:
            return _ABSENT
    return document


# -- the body


def read_document(body: bytes) -> Union[object, Any]:
    """Return the JSON that ``body`` is, or what has no members where it is none.

    Raises :class:`~capgate.errors.MalformedInput` where readers do not agree that it is JSON, or what is in it. So it
    is with a key that is there twice, NaN, another encoding than UTF-8, a byte order mark, and nesting too deep.
    """
    try:
        return _STRICT.decode(body.decode())
    except RecursionError:
        raise MalformedInput("the body is nested too deeply") from None
    except ValueError as error:
        if _is_json_to_some(body):
            raise MalformedInput("the body is JSON that not all readers take for the same") from error
    return _ABSENT


def _is_json_to_some(body: bytes) -> bool:
    """Say whether Python's own reader takes ``body``, as applications do."""
    try:
        json.loads(body)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("beyond what a double holds")
    return number


_STRICT: Final = StrictDecoder(fraction=_finite)
