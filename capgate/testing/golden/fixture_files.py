"""Reads golden fixtures from files: strict JSON, with the place in every error.

::

    {"description": "Alice may not write.",                                            optional
     "input": {"action": "db.write", "actor": {"kind": "user", "id": "alice"},
               "resource": {"kind": "sql_query", "id": "audit"}},                      a policy input
     "register": ["invoice.send"],                    optional: actions that the application brings
     "policy": {"sql": ["list_users"]},               optional: the document that this fixture is about
     "would_deny": "not yet",                         optional, of an allow: what a rule that only monitors records
     "expected": {"kind": "deny", "reason": "not_in_allowlist"}}

A file holds one of these or a list of them. A ``.jsonl`` (or ``.ndjson``) file has one on each line. ``expected`` may
name any reason, capgate's own codes such as ``policy_trap`` included.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import msgspec

from ...artifact.load import read_bytes
from ...errors import ArtifactNotFound, FixtureError
from ...limits import Limits
from ...policy.strict import StrictDecoder
from ...store.release_fixtures import Fixture

LINES: Final = (".jsonl", ".ndjson")
SUFFIXES: Final = (".json", *LINES)

_JSON: Final = StrictDecoder()
_WHITESPACE: Final = re.compile(r"[ \t\n\r]*")
_DEFAULT_LIMITS: Final = Limits()
#: Fields that a fixture gets from its place, and that its file therefore must not have.
_PLACE: Final = ("name", "path", "line")


class FixtureFile(NamedTuple):
    """A file with fixtures: where it is, and the name that those in it begin with."""

    path: str
    name: str


def read_fixtures(*paths: str | os.PathLike[str], limits: Limits = _DEFAULT_LIMITS) -> tuple[Fixture, ...]:
    """Return the fixtures of files and folders, in the order given; those of a folder and of the folders in it by name.

    The name of a fixture is its path below the folder that was given, without suffix, and the number in a file of
    several. Raises :class:`FixtureError`, or :class:`ArtifactError` for a file that cannot be read. Nothing is raised
    where there are none: whoever runs none has to say so.
    """
    return tuple(fixture for file in find_files(paths) for fixture in read_file(file.path, file.name, limits=limits))


def find_files(paths: Iterable[str | os.PathLike[str]]) -> list[FixtureFile]:
    """Return the files that hold fixtures, each once.

    In folders, what begins with a dot or ends otherwise than :data:`SUFFIXES` is passed over. Links to folders are not
    followed. Raises :class:`ArtifactNotFound`.
    """
    files: dict[str, tuple[str, str]] = {}
    for given in map(os.fsdecode, paths):
        if not os.path.exists(given):
            raise ArtifactNotFound("there is no such file or folder", path=given)
        below = list(_below(given)) if os.path.isdir(given) else [given]
        for path in below:
            relative = os.path.relpath(path, given) if os.path.isdir(given) else os.path.basename(path)
            files.setdefault(os.path.realpath(path), (path, _stem(relative)))
    names = Counter(name for _, name in files.values())
    return [FixtureFile(path, name if names[name] == 1 else _stem(path)) for path, name in files.values()]


def read_file(path: str, name: str = "", *, limits: Limits = _DEFAULT_LIMITS) -> list[Fixture]:
    """Return the fixtures of one file. Raises what :func:`read_fixtures` raises."""
    try:
        text = read_bytes(path, limits.module_bytes).decode()
    except UnicodeDecodeError as error:
        raise FixtureError(f"byte {error.start} is not UTF-8", path=path) from error
    values = list(_lines(text, path) if path.endswith(LINES) else _values(text, path))
    several = path.endswith(LINES) or text.lstrip()[:1] == "["
    name = name or _stem(os.path.basename(path))
    return [
        _fixture(value, f"{name}[{number}]" if several else name, path, line)
        for number, (line, value) in enumerate(values)
    ]


def _below(folder: str) -> Iterator[str]:
    def fail(error: OSError) -> NoReturn:
        raise ArtifactNotFound(f"cannot be listed: {error.strerror}", path=error.filename or folder) from error

    for top, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(top, name)


def _stem(path: str) -> str:
    return os.fsencode(Path(path).with_suffix("").as_posix()).decode("utf-8", "backslashreplace")


# -- strict JSON, value by value


def _values(text: str, path: str) -> Iterator[tuple[int, object]]:
    """Yield the value of a file, or those of the list that it is, each with its line."""
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        yield _line(text, at), _single(text, path)
        return
    at = _skip(text, at + 1)
    line, counted = 1, 0
    while text[at : at + 1] != "]":
        value, end = _raw(text, at, path)
        line, counted = line + text.count("\n", counted, at), at
        yield line, value
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
            if text[at : at + 1] == "]":
                _fail(text, at, path, "a value has to follow the comma")
        elif text[at : at + 1] != "]":
            _fail(text, at, path, "a comma or ']' has to follow the value")
    _end(text, at + 1, path)


def _lines(text: str, path: str) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip(" \t\r"):
            yield number, _single(line, path, number)


def _single(text: str, path: str, first_line: int = 1) -> object:
    value, end = _raw(text, _skip(text, 0), path, first_line)
    _end(text, end, path, first_line)
    return value


def _raw(text: str, at: int, path: str, first_line: int = 1) -> tuple[object, int]:
    try:
        return _JSON.raw_decode(text, at)
    except json.JSONDecodeError as error:
        _fail(text, error.pos, path, error.msg, first_line)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        _fail(text, at, path, reason, first_line)


def _end(text: str, at: int, path: str, first_line: int = 1) -> None:
    at = _skip(text, at)
    if at < len(text):
        _fail(text, at, path, "nothing may follow the value", first_line)


def _skip(text: str, at: int) -> int:
    space = _WHITESPACE.match(text, at)
    return at if space is None else space.end()


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _fail(text: str, at: int, path: str, reason: str, first_line: int = 1) -> NoReturn:
    column = at - text.rfind("\n", 0, at)
    raise FixtureError(reason, path=path, line=_line(text, at) + first_line - 1, column=column) from None


# -- from value to fixture


def _fixture(value: object, name: str, path: str, line: int) -> Fixture:
    if isinstance(value, dict) and (placed := [field for field in _PLACE if field in value]):
        raise FixtureError(f"Object contains unknown field `{placed[0]}`", path=path, line=line)
    try:
        fixture = msgspec.convert(value, Fixture)
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own, and of keys that are no Unicode
        reason, _, where = str(error).partition(" - at `$")
        raise FixtureError(reason, path=path, line=line, where=where.strip(".`")) from error
    fault = fixture.fault()
    if fault is not None:
        raise FixtureError(fault[1], path=path, line=line, where=fault[0])
    return msgspec.structs.replace(fixture, name=name, path=path, line=line)
