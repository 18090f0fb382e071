"""Provides ``json.patch``: RFC 6902 on Rego values. A path is a JSON pointer or an array of keys; sets can be edited.

OPA is followed in what it accepts: slashes at the start of a path may be missing or many, ``replace`` is ``remove`` and
``add``. Whatever goes wrong in a patch leaves the whole undefined.
"""

from __future__ import annotations

import re
from typing import Final, Union

from ..errors import BuiltinError
from .base import INT_MAX, INT_MIN, Context, Undefined, array, builtin, mapping
from .terms import Object, Order, Set, Value, equal, order, weigh

_INTEGER: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)
Path = tuple[Value, ...]


class _Array:
    """An array that is edited: its members, and where each was at first, ``None`` for those that were put there."""

    def __init__(self, items: tuple[Value, ...]) -> None:
        self.items: list[_Node] = list(items)
        self.origins: list[int | None] = list(range(len(items)))


class _Object:
    """An object that is edited."""

    def __init__(self, value: Object) -> None:
        self.pairs: dict[Order, tuple[Value, _Node]] = {order(key): (key, item) for key, item in value.items}


_Node = Union[Value, _Array, _Object]


@builtin("json.patch")
def patch(context: Context, target: Value, operations: Value) -> Value:
    root: list[_Node] = [target]
    for operation in array(operations):
        _apply(context, root, mapping(operation))
    if not root:
        raise BuiltinError("json.patch", "ambiguous", "the whole value was removed")
    return _rendered(root[0])


def _apply(context: Context, root: list[_Node], operation: Object) -> None:
    name = operation.get("op")
    if name not in ("add", "remove", "replace", "move", "copy", "test") or not isinstance(name, str):
        raise Undefined
    path = _path(_needed(operation, "path"))
    if name in ("move", "copy"):
        source = _path(_needed(operation, "from"))
        value = _read(context, root, source)
        if name == "move":
            _remove(context, root, source)
        _add(context, root, path, value)
    elif name == "remove":
        _remove(context, root, path)
    else:
        value = _needed(operation, "value")
        if name == "test":
            if not equal(_read(context, root, path), value):
                raise Undefined
            return
        if name == "replace":
            _remove(context, root, path)
        _add(context, root, path, value)


def _needed(operation: Object, key: str) -> Value:
    if key not in operation:
        raise Undefined
    return operation.get(key)


def _path(value: Value) -> Path:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, str):
        raise Undefined
    if value == "":
        return ()
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in value.lstrip("/").split("/"))


def _read(context: Context, root: list[_Node], path: Path) -> Value:
    value = _rendered(_unfold(context, root, path))
    context.spend(weigh(value))
    return value


def _unfold(context: Context, root: list[_Node], path: Path, *, edit: bool = False) -> _Node:
    """Return the node at ``path``, which is edited in place from now on, as is what leads to it; not so in a set."""
    if not root:
        raise Undefined
    node = root[0] = _opened(context, root[0])
    for key in path:
        if isinstance(node, _Object):
            place = order(key)
            if place not in node.pairs:
                raise Undefined
            kept, child = node.pairs[place]
            child = _opened(context, child)
            node.pairs[place] = (kept, child)
        elif isinstance(node, _Array):
            child = _at(context, node, key)
        elif isinstance(node, Set):
            if not _has(node, key):
                raise Undefined
            if edit:
                raise BuiltinError("json.patch", "ambiguous", "an edit of a member of a set")
            child = _opened(context, key)
        else:
            raise Undefined
        node = child
    return node


def _at(context: Context, node: _Array, key: Value) -> _Node:
    index = _index(key, len(node.items))
    if not 0 <= index < len(node.items):
        raise Undefined
    if node.origins[index] not in (None, index):  # where OPA looks at what was there before the patch
        raise BuiltinError("json.patch", "ambiguous", "a path through what moved in its array in the same patch")
    child = node.items[index] = _opened(context, node.items[index])
    node.origins[index] = None
    return child


def _has(members: Set, key: Value) -> bool:
    return order(key) in {order(item) for item in members}


def _opened(context: Context, node: _Node) -> _Node:
    if not isinstance(node, (Object, tuple)):
        return node
    context.spend(len(node))
    return _Object(node) if isinstance(node, Object) else _Array(node)


def _add(context: Context, root: list[_Node], path: Path, value: Value) -> None:
    if not path:
        root[:] = [value]
        return
    key, node = path[-1], _unfold(context, root, path[:-1], edit=True)
    if isinstance(node, _Object):
        node.pairs[order(key)] = (key, value)
    elif isinstance(node, _Array):
        index = _index(key, len(node.items))
        if not 0 <= index <= len(node.items):
            raise Undefined
        context.spend(len(node.items))
        node.items.insert(index, value)
        node.origins.insert(index, None)
    elif isinstance(node, Set):
        if not equal(key, value):
            raise Undefined
        _put(context, root, path[:-1], Set((*node.items, value)))
    else:
        raise Undefined


def _remove(context: Context, root: list[_Node], path: Path) -> None:
    if not path:
        if not root:
            raise Undefined
        root.clear()
        return
    key, node = path[-1], _unfold(context, root, path[:-1], edit=True)
    if isinstance(node, _Object):
        if order(key) not in node.pairs:
            raise Undefined
        del node.pairs[order(key)]
    elif isinstance(node, _Array):
        index = _index(key, len(node.items))
        if not 0 <= index < len(node.items):
            raise Undefined
        context.spend(len(node.items))
        del node.items[index], node.origins[index]
    elif isinstance(node, Set):
        if not _has(node, key):
            raise Undefined
        _put(context, root, path[:-1], Set(item for item in node if not equal(item, key)))
    else:
        raise Undefined


def _put(context: Context, root: list[_Node], path: Path, value: Set) -> None:
    """Set the node at ``path``, which is a set and is there, to ``value``."""
    context.spend(weigh(value))
    if not path:
        root[:] = [value]
        return
    node = _unfold(context, root, path[:-1])
    if isinstance(node, _Object):
        node.pairs[order(path[-1])] = (path[-1], value)
    elif isinstance(node, _Array):
        node.items[_index(path[-1], len(node.items))] = value
    else:
        raise BuiltinError("json.patch", "ambiguous", "an edit of a member of a set")


def _index(key: Value, length: int) -> int:
    """Return where in an array of ``length`` a key points; ``-`` is behind its last member."""
    if isinstance(key, bool) or not isinstance(key, (int, str)):
        raise Undefined
    if key == "-":
        return length
    if isinstance(key, str):
        if _INTEGER.fullmatch(key) is None or len(key) > 20 or (key != "0" and key.startswith("0")):
            raise Undefined
        key = int(key)
    if not INT_MIN <= key <= INT_MAX:
        raise Undefined
    return key


def _rendered(node: _Node) -> Value:
    if isinstance(node, _Array):
        return tuple(_rendered(item) for item in node.items)
    if isinstance(node, _Object):
        return Object((key, _rendered(item)) for key, item in node.pairs.values())
    return node
