"""Provides ``regex.*`` that OPA's compiler leaves to the host, on RE2, and ``glob.quote_meta``.

RE2's syntax is Go's, and its time is linear. The two differ in nothing that these functions show, but in what has no
answer below. That is ``\\C``, names of groups in a form that older Go has not, and patterns that are too large for the
memory that is granted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from ..errors import BuiltinError
from .base import Context, Undefined, builtin, integer, string
from .terms import Value

try:
    import re2
except ImportError:  # pragma: no cover - the functions are not provided then
    re2 = None


class PatternMatch(Protocol):
    """What is used of a match of RE2, which ships no types."""

    def start(self) -> int: ...
    def end(self) -> int: ...
    def span(self) -> tuple[int, int]: ...
    def group(self, number: int = 0) -> str: ...


class CompiledPattern(Protocol):
    """What is used of a compiled pattern of RE2, which ships no types."""

    pattern: str
    programsize: int
    groups: int
    groupindex: dict[str, int]

    def search(self, text: str) -> PatternMatch | None: ...
    def finditer(self, text: str) -> Iterator[PatternMatch]: ...


_NEEDS: Final = (("google-re2", re2),)
#: Bytes that a compiled pattern and its caches may take.
_MAX_MEMORY: Final = 1_000_000
#: Characters of a pattern; compiling takes time in proportion to the program, which the memory bounds as well.
_MAX_PATTERN: Final = 10_000
#: Groups of a pattern. Go refuses a thousand of them within each other, RE2 does not.
_MAX_GROUPS: Final = 500
#: RE2's instructions that one unit of work pays for, at one character.
_PER_UNIT: Final = 16
#: Characters that a search looks at for one unit of work, where it finds something after all.
_LOOKED_AT: Final = 512
#: What RE2 says of patterns that are too large, for which Go has other bounds.
_TOO_LARGE: Final = ("too large", "nesting depth", "too many", "out of memory")
#: Whether a match may depend on what stands before it.
_LOOKS_BACK: Final = ("^", "\\A", "\\b", "\\B")
_META: Final = frozenset(r"\.+*?()|[]{}^$")
_GLOB_META: Final = frozenset(r"*?\[]{}")


@functools.lru_cache(maxsize=32)
def _compiled(pattern: str) -> CompiledPattern:
    options = re2.Options()
    options.max_mem, options.log_errors = _MAX_MEMORY, False
    try:
        compiled: CompiledPattern = re2.compile(pattern, options)
    except re2.error as error:
        words = str(error)
        if any(word in words for word in _TOO_LARGE):
            raise BuiltinError("regex", "limit", words) from error
        raise Undefined from None
    return compiled


def _compile(context: Context, pattern: str) -> CompiledPattern:
    if len(pattern) > _MAX_PATTERN:
        raise BuiltinError("regex", "limit", f"a pattern of {len(pattern)} characters, at most {_MAX_PATTERN}")
    if pattern.count("(") > _MAX_GROUPS:
        raise BuiltinError("regex", "limit", f"{pattern.count('(')} groups, at most {_MAX_GROUPS}")
    if "\\C" in pattern or "(?<" in pattern:
        raise BuiltinError("regex", "ambiguous", "\\C is RE2's, and (?<name>) is new in Go")
    context.spend(10 * len(pattern))
    compiled = context.paid.get(pattern)
    if compiled is None:
        # A few characters may stand for a large program. Whether it was compiled for others must not show, so each
        # evaluation pays, once; what it paid for it keeps, so that a cache that is too small costs nobody anything.
        compiled = _compiled(pattern)
        context.spend(compiled.programsize)
        context.paid[pattern] = compiled
    return compiled


def _pay(context: Context, compiled: CompiledPattern, text: str) -> None:
    context.spend(2 * len(text) * (1 + compiled.programsize // _PER_UNIT))


def _re2_matches(context: Context, compiled: CompiledPattern, text: str) -> Iterator[PatternMatch]:
    """Yield the matches that RE2 finds. Each search may look at all that is left, to no avail, before it finds what is
    near: ``a.*b|a`` does."""
    _pay(context, compiled, text)
    for match in compiled.finditer(text):
        context.spend(4 + (len(text) - match.start()) // _LOOKED_AT)
        yield match


def _matches(context: Context, compiled: CompiledPattern, text: str) -> Iterator[PatternMatch]:
    """Yield the matches that Go finds: an empty one is none right behind another match."""
    previous = -1
    for match in _re2_matches(context, compiled, text):
        start, end = match.span()
        if start != end or start != previous:
            yield match
        previous = end


@builtin("regex.split", needs=_NEEDS)
def split(context: Context, pattern: Value, text: Value) -> Value:
    """Split as Go's ``Regexp.Split`` without a limit."""
    expression, whole = string(pattern), string(text)
    compiled = _compile(context, expression)
    if expression and not whole:
        return ("",)
    parts: list[Value] = []
    begin = end = 0
    for match in _matches(context, compiled, whole):
        end = match.start()
        if match.end() != 0:
            parts.append(whole[begin:end])
        begin = match.end()
    if end != len(whole):
        parts.append(whole[begin:])
    return tuple(parts)


@builtin("regex.find_n", needs=_NEEDS)
def find_n(context: Context, pattern: Value, text: Value, count: Value) -> Value:
    """Return the first ``count`` matches, or all of them where that is negative."""
    expression, whole, most = string(pattern), string(text), integer(count)
    compiled = _compile(context, expression)
    matched: list[Value] = []
    for match in _matches(context, compiled, whole):
        if 0 <= most <= len(matched):
            break
        matched.append(match.group())
    return tuple(matched)


@builtin("regex.replace", needs=_NEEDS)
def replace(context: Context, text: Value, pattern: Value, value: Value) -> Value:
    """Replace every match by ``value``, in which ``$1``, ``$name`` and ``${name}`` stand for groups.

    OPA's releases do this in two ways: by Go's function, or match by match in what is left of the text. Where they
    differ, which takes an empty match or an assertion, there is no one result.
    """
    whole, expression, template = string(text), string(pattern), string(value)
    compiled = _compile(context, expression)
    expand = _expander(template, compiled)
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    begin = 0
    for match in _re2_matches(context, compiled, whole):
        context.spend(len(template))
        replaced = expand(match)
        context.spend(len(replaced))
        parts += [whole[begin : match.start()], replaced]
        begin = match.end()
        spans.append(match.span())
    if any(start == end for start, end in spans) or not _same_alone(context, compiled, whole, spans):
        raise BuiltinError("regex.replace", "ambiguous", "releases of OPA differ in what is replaced")
    return "".join(parts) + whole[begin:]


def _same_alone(context: Context, compiled: CompiledPattern, text: str, spans: list[tuple[int, int]]) -> bool:
    """Say whether the same is matched where each search has only what the last one left."""
    if not any(mark in compiled.pattern for mark in _LOOKS_BACK):
        return True
    begin = 0
    for span in [*spans, None]:
        rest = text[begin:]
        _pay(context, compiled, rest)
        match = compiled.search(rest)
        if match is None or span is None:
            return match is None and span is None
        if (begin + match.start(), begin + match.end()) != span:
            return False
        begin = span[1]
    return True


def _expander(template: str, compiled: CompiledPattern) -> Callable[[PatternMatch], str]:
    pieces: list[str | int] = []
    at = 0
    while at < len(template):
        dollar = template.find("$", at)
        pieces.append(template[at:] if dollar < 0 else template[at:dollar])
        if dollar < 0:
            break
        at = dollar + 1
        name, end = _group_name(template, at)
        if template.startswith("$", at) or not name:  # two stand for one, and one that begins no name for itself
            pieces.append("$")
            at += template.startswith("$", at)
        else:
            pieces.append(_group_number(name, compiled))
            at = end

    def expand(match: PatternMatch) -> str:
        return "".join(
            piece if isinstance(piece, str) else (match.group(piece) or "" if piece >= 0 else "") for piece in pieces
        )

    return expand


def _group_name(text: str, at: int) -> tuple[str, int]:
    """Return the name of a group at ``at`` and where it ends, or an empty one where there is none."""
    braced = text.startswith("{", at)
    start = end = at + braced
    while end < len(text) and (text[end] == "_" or text[end].isalpha() or text[end].isdecimal()):
        end += 1
    if end == start or (braced and not text.startswith("}", end)):
        return "", at
    return text[start:end], end + braced


def _group_number(name: str, compiled: CompiledPattern) -> int:
    """Return the group that ``name`` stands for; -1 for one that there is not, which is empty."""
    numeric = name.isascii() and name.isdigit() and (name == "0" or not name.startswith("0"))
    if numeric:
        number = int(name) if len(name) < 9 else -1
        return number if number <= compiled.groups else -1
    return compiled.groupindex.get(name, -1)


@builtin("regex.template_match", needs=_NEEDS)
def template_match(context: Context, template: Value, text: Value, start: Value, end: Value) -> Value:
    """Say whether all of ``text`` is like ``template``, in which patterns stand between the two delimiters."""
    source, whole = string(template), string(text)
    opening, closing = string(start), string(end)
    if len(opening.encode()) != 1 or len(closing.encode()) != 1:
        raise Undefined
    pattern = "^"
    at = 0
    for first, last in _delimited(source, opening, closing):
        inner = source[first + 1 : last]
        _compile(context, f"^{inner}$")
        pattern += f"{_quote(source[at:first])}({inner})"
        at = last + 1
    compiled = _compile(context, f"{pattern}{_quote(source[at:])}$")
    _pay(context, compiled, whole)
    return compiled.search(whole) is not None


def _delimited(text: str, opening: str, closing: str) -> Iterator[tuple[int, int]]:
    """Yield where the outermost pairs of delimiters are."""
    level = first = 0
    for index, char in enumerate(text):
        if char == opening:
            level += 1
            first = index if level == 1 else first
        elif char == closing:
            level -= 1
            if level < 0:
                raise Undefined
            if level == 0:
                yield first, index
    if level:
        raise Undefined


def _quote(text: str) -> str:
    return "".join("\\" + char if char in _META else char for char in text)


@builtin("glob.quote_meta")
def quote_meta(context: Context, text: Value) -> Value:
    """Return ``text`` as a pattern of ``glob.match`` that matches it alone."""
    return "".join("\\" + char if char in _GLOB_META else char for char in string(text))
