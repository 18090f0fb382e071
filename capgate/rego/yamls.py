"""Provides ``yaml.unmarshal`` and ``yaml.is_valid``, where every reader of YAML agrees.

YAML 1.1 and 1.2, and their readers, differ in what ``yes``, ``0o7``, ``1_000``, ``12:30`` or a date are, in what two
equal keys mean, in tags and merges. A document with any of that raises :class:`BuiltinError`, since a guess could allow
what OPA denies. What is left is most of what people write: mappings, sequences, text, booleans, null, numbers.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from ..errors import BuiltinError
from .base import Context, Undefined, builtin, string
from .terms import Object, Value, number, weigh

try:
    import yaml
except ImportError:  # pragma: no cover - the functions are not provided then
    yaml = None  # type: ignore[assignment]  # not installed, and then its builtins are refused

_NEEDS: Final = (("pyyaml", yaml),)
_PLAIN: Final[dict[str, Value]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,14}|-?(?:0|[1-9][0-9]{0,6})\.[0-9]{0,6}[1-9]", re.ASCII)
#: Plain text that some reader takes for something else.
_DOUBTFUL: Final = re.compile(r"(?i:y|n|yes|no|on|off|<<|=|[-+]?\.(?:inf|nan))|[-+.]?[0-9].*", re.ASCII | re.DOTALL)
#: What begins with a digit and is text to everybody: a letter of no number and of no time, or three numbers with dots.
_TEXT: Final = re.compile(r"(?![0-9]{4}-)[0-9][^:]*[g-np-wyzG-NP-WYZ][^:]*|[0-9]+(?:\.[0-9]+){2,}", re.ASCII)
#: What a unit of work pays for is less in the pure parser, which takes some microseconds for a character.
COST: Final = 40
_MAX_DEPTH: Final = 50


def _doubtful(detail: str) -> BuiltinError:
    return BuiltinError("yaml", "ambiguous", f"readers of YAML differ in {detail}")


@builtin("yaml.unmarshal", needs=_NEEDS)
def unmarshal(context: Context, text: Value) -> Value:
    return read_yaml(context, string(text))


@builtin("yaml.is_valid", needs=_NEEDS)
def is_valid(context: Context, text: Value) -> Value:
    if not isinstance(text, str):
        return False
    try:
        read_yaml(context, text)
    except Undefined:
        return False
    return True


def read_yaml(context: Context, text: str) -> Value:
    """Return the value of ``text``, for :data:`COST` units of work for each character, and for what aliases copy.

    Raises :class:`BuiltinError` where readers differ, and where ``pyyaml`` is not installed; :class:`Undefined` where
    it is no YAML to anybody.
    """
    if yaml is None:
        raise BuiltinError("yaml", "limit", "pyyaml is not installed; pip install 'capgate[rego]'")
    context.spend(COST * len(text))
    try:
        documents = list(yaml.compose_all(text, Loader=_bounded_loader()))
    except yaml.YAMLError:
        _check_depth(text)  # before a reader looks at it that takes its own stack
        raise _agreed(text) from None
    if len(documents) > 1 or "%" in text[:1]:
        raise _doubtful("more than one document, and in directives")
    return _value(context, documents[0], {}, 0) if documents and documents[0] is not None else None


@cache
def _bounded_loader() -> Any:
    """Return the pure loader, which composes no deeper than :data:`_MAX_DEPTH`."""

    class BoundedLoader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.depth > _MAX_DEPTH:
                raise BuiltinError("yaml", "limit", f"more than {_MAX_DEPTH} levels")
            self.depth += 1
            try:
                return super().compose_node(parent, index)
            finally:
                self.depth -= 1

    return BoundedLoader


def _agreed(text: str) -> Exception:
    """Return :class:`Undefined` where libyaml, from which Go's reader is made, takes it for no YAML as well."""
    loader = getattr(yaml, "CSafeLoader", None)
    if loader is None:
        return _doubtful("whether this is YAML")
    try:
        for _ in yaml.compose_all(text, Loader=loader):
            pass
    except yaml.YAMLError:
        return Undefined()
    return _doubtful("whether this is YAML")


def _check_depth(text: str) -> None:
    """Raise where it may nest too deep: nothing nests deeper than it opens brackets, or has indentations."""
    indents = {len(line) - len(line.lstrip(" -?:")) for line in text.splitlines()}
    if len(indents) + text.count("[") + text.count("{") + text.count("- -") > 4 * _MAX_DEPTH:
        raise BuiltinError("yaml", "limit", f"more than {_MAX_DEPTH} levels, or too many brackets")


def _value(context: Context, node: Any, anchored: dict[int, Value], depth: int) -> Value:
    if depth > _MAX_DEPTH:
        raise BuiltinError("yaml", "limit", f"more than {_MAX_DEPTH} levels")
    if id(node) in anchored:  # an alias, which is a copy; it costs what it is worth
        anchor = anchored[id(node)]
        context.spend(weigh(anchor))
        return anchor
    if isinstance(node, yaml.ScalarNode):
        made = _scalar(node)
    elif not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in ("map", "seq"):
        raise _doubtful(f"the tag {node.tag!r}")
    elif isinstance(node, yaml.SequenceNode):
        made = tuple(_value(context, item, anchored, depth + 1) for item in node.value)
    else:
        made = _mapping(context, node, anchored, depth)
    anchored[id(node)] = made
    return made


def _mapping(context: Context, node: Any, anchored: dict[int, Value], depth: int) -> Value:
    pairs = []
    for key_node, value_node in node.value:
        key = _value(context, key_node, anchored, depth + 1)
        if not isinstance(key, str):
            raise _doubtful(f"the key {key!r}, which is no string")
        pairs.append((key, _value(context, value_node, anchored, depth + 1)))
    made = Object(pairs)
    if len(made) != len(pairs):
        raise _doubtful("equal keys")
    return made


def _scalar(node: Any) -> Value:
    text: str = node.value
    if node.style is not None:
        if node.tag != "tag:yaml.org,2002:str":
            raise _doubtful(f"the tag {node.tag!r}")
        return text
    tag = node.tag.rpartition(":")[2]
    if text in _PLAIN and tag in ("null", "bool"):
        return _PLAIN[text]
    if _NUMBER.fullmatch(text) and tag == ("float" if "." in text else "int"):
        return number(text)
    if tag != "str" or (_DOUBTFUL.fullmatch(text) and not _TEXT.fullmatch(text)):
        raise _doubtful(f"what {text[:80]!r} is")
    return text
