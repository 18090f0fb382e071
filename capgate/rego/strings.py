"""Provides ``sprintf`` and the ``strings.*`` that OPA's compiler does not compile in."""

from __future__ import annotations

import math

from ..errors import BuiltinError
from .base import Context, Undefined, array, builtin, integer, string, strings
from .gofmt import Argument, sprintf
from .gotext import term
from .terms import Number, Object, Set, Value, weigh


@builtin("sprintf")
def sprintf_values(context: Context, format: Value, values: Value) -> Value:
    """Format as ``fmt.Sprintf``, of numbers as Go has them, strings, and the Rego text of everything else."""
    return sprintf(string(format), [_argument(context, value) for value in array(values)], context.spend)


def _argument(context: Context, value: Value) -> Argument:
    if isinstance(value, str):
        return value
    if isinstance(value, Number):
        number = float(value.text)
        return value.text if math.isinf(number) else number
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    context.spend(weigh(value))
    return term(value)


@builtin("internal.template_string")
def template_string(context: Context, parts: Value) -> Value:
    """Write ``$"…"`` of newer compilers: strings as they are, the Rego text of others; a set holds an expression's
    value."""
    return "".join(map(_shown, array(parts)))


def _shown(part: Value) -> str:
    if isinstance(part, Set):
        if len(part) > 1:
            raise BuiltinError("internal.template_string", "ambiguous", "an expression with more than one value")
        return _text(part.items[0]) if part else "<undefined>"
    if isinstance(part, (tuple, Object)):
        raise BuiltinError("internal.template_string", "ambiguous", "an expression that is in no set")
    return _text(part)


def _text(value: Value) -> str:
    return value if isinstance(value, str) else term(value)


@builtin("strings.any_prefix_match")
def any_prefix_match(context: Context, texts: Value, prefixes: Value) -> Value:
    """Say whether any of the strings begins with any of the prefixes; each is a string, an array or a set of them."""
    whole, sought = _one_or_more(texts), tuple(_one_or_more(prefixes))
    context.spend(len(whole) * len(sought))
    return any(text.startswith(sought) for text in whole)


@builtin("strings.any_suffix_match")
def any_suffix_match(context: Context, texts: Value, suffixes: Value) -> Value:
    whole, sought = _one_or_more(texts), tuple(_one_or_more(suffixes))
    context.spend(len(whole) * len(sought))
    return any(text.endswith(sought) for text in whole)


def _one_or_more(value: Value) -> list[str]:
    return [value] if isinstance(value, str) else strings(value)


@builtin("strings.count")
def count(context: Context, text: Value, part: Value) -> Value:
    """Return how often ``part`` is in ``text`` without overlap; an empty one is before and after each character."""
    return string(text).count(string(part))


@builtin("strings.split_n")
def split_some(context: Context, text: Value, delimiter: Value, count: Value) -> Value:
    """Return the first ``count`` parts of ``text``, or the last ones where that is negative."""
    whole, between, most = string(text), string(delimiter), integer(count)
    parts = whole.split(between) if between else list(whole)
    return tuple(parts[:most] if most >= 0 else parts[most:])


@builtin("indexof_n")
def index_of_all(context: Context, text: Value, part: Value) -> Value:
    """Return where ``part`` begins in ``text``, in characters, overlapping or not."""
    whole, sought = string(text), string(part)
    if not sought:
        raise Undefined
    places: list[Value] = []
    at = whole.find(sought)
    while at >= 0:
        places.append(at)
        context.spend(1 + len(sought))
        at = whole.find(sought, at + 1)
    return tuple(places)


@builtin("strings.reverse")
def reverse(context: Context, text: Value) -> Value:
    return string(text)[::-1]
