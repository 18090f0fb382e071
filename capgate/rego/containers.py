"""Provides ``object.*``, ``graph.reachable_paths``, ``array.*``, casts, and what older compilers leave to the host."""

from __future__ import annotations

from ..errors import BuiltinError
from .base import Context, Undefined, array, boolean, builtin, mapping, string
from .terms import Object, Set, Value, equal, order, weigh


@builtin("object.subset")
def subset(context: Context, super_: Value, sub: Value) -> Value:
    """Say whether ``sub`` is in ``super_``: keys and what they map to, members, or a run of an array's members."""
    if isinstance(super_, Object) and isinstance(sub, Object):
        return _object_subset(context, super_, sub)
    if isinstance(super_, Set) and isinstance(sub, Set):
        return _set_subset(super_, sub)
    if isinstance(super_, tuple) and isinstance(sub, tuple):
        return _array_subset(context, super_, sub)
    if isinstance(super_, tuple) and isinstance(sub, Set):
        inside = _set_subset(Set(super_), sub)
        if inside != _counted(super_, sub):
            raise BuiltinError("object.subset", "ambiguous", "OPA counts members of the array that are there twice")
        return inside
    raise Undefined


def _counted(super_: tuple[Value, ...], sub: Set) -> bool:
    """Say whether OPA takes it for a subset: as many members of the array are in the set as the set has."""
    keys = {order(item) for item in sub}
    return len(super_) > 0 and sum(order(item) in keys for item in super_) >= len(keys)


def _object_subset(context: Context, super_: Object, sub: Object) -> bool:
    for key, item in sub.items:
        if key not in super_:
            return False
        other = super_.get(key)
        context.spend(weigh(item))
        if equal(item, other):
            continue
        if isinstance(other, Object) and isinstance(item, Object):
            inside = _object_subset(context, other, item)
        elif isinstance(other, Set) and isinstance(item, Set):
            inside = _set_subset(other, item)
        else:
            inside = isinstance(other, tuple) and isinstance(item, tuple) and _array_subset(context, other, item)
        if not inside:
            return False
    return True


def _set_subset(super_: Set, sub: Set) -> bool:
    keys = {order(item) for item in super_}
    return all(order(item) in keys for item in sub)


def _array_subset(context: Context, super_: tuple[Value, ...], sub: tuple[Value, ...]) -> bool:
    whole, part = [order(item) for item in super_], [order(item) for item in sub]
    starts = len(whole) - len(part) + 1
    context.spend(max(0, starts) * weigh(sub))
    return any(whole[start : start + len(part)] == part for start in range(starts))


@builtin("graph.reachable_paths")
def reachable_paths(context: Context, graph: Value, initial: Value) -> Value:
    """Return the longest paths from the initial vertices along the edges, each cut where it would come to itself."""
    edges = mapping(graph)
    if not isinstance(initial, (tuple, Set)):
        raise Undefined
    paths: list[Value] = []
    for root in initial:
        if root in edges:
            for neighbor in _neighbors(edges, root):
                _walk(context, edges, neighbor, (root,), {order(root)}, paths)
            if not _neighbors(edges, root):
                paths.append((root,))
    return Set(paths)


def _neighbors(edges: Object, vertex: Value) -> tuple[Value, ...]:
    members = edges.get(vertex)
    return members if isinstance(members, tuple) else members.items if isinstance(members, Set) else ()


def _walk(
    context: Context, edges: Object, vertex: Value, path: tuple[Value, ...], reached: set[object], paths: list[Value]
) -> None:
    context.spend(weigh(path) * 2)
    if vertex not in edges:
        paths.append(path)
        return
    path = (*path, vertex)
    neighbors = _neighbors(edges, vertex)
    if not neighbors:
        paths.append(path)
    reached = {*reached, order(vertex)}
    for neighbor in neighbors:
        if order(neighbor) in reached:
            context.spend(weigh(path) * 2)
            paths.append(path)
        else:
            _walk(context, edges, neighbor, path, reached, paths)


@builtin("array.reverse")
def reverse(context: Context, items: Value) -> Value:
    return array(items)[::-1]


@builtin("array.flatten")
def flatten(context: Context, items: Value) -> Value:
    """Return members of members that are arrays, in their place; one level."""
    flat: list[Value] = []
    for item in array(items):
        flat.extend(item if isinstance(item, tuple) else (item,))
    return tuple(flat)


@builtin("object.keys")
def keys(context: Context, value: Value) -> Value:
    return Set(key for key, _ in mapping(value).items)


@builtin("object.union_n")
def union_of_all(context: Context, objects: Value) -> Value:
    """Return objects merged into each other, the later ones before the earlier, objects in them as well."""
    merged = Object()
    for item in array(objects):
        context.spend(weigh(merged))
        merged = _union(merged, mapping(item))
    return merged


def _union(left: Object, right: Object) -> Object:
    pairs = list(left.items)
    for key, value in right.items:
        other = left.get(key)
        both = isinstance(other, Object) and isinstance(value, Object)
        pairs.append(
            (key, _union(other, value) if isinstance(other, Object) and isinstance(value, Object) and both else value)
        )
    return Object(pairs)


@builtin("cast_array")
def cast_array(context: Context, value: Value) -> Value:
    return value.items if isinstance(value, Set) else array(value)


@builtin("cast_set")
def cast_set(context: Context, value: Value) -> Value:
    return value if isinstance(value, Set) else Set(array(value))


@builtin("cast_boolean")
def cast_boolean(context: Context, value: Value) -> Value:
    return boolean(value)


@builtin("cast_null")
def cast_null(context: Context, value: Value) -> Value:
    if value is not None:
        raise Undefined
    return None


@builtin("cast_object")
def cast_object(context: Context, value: Value) -> Value:
    return mapping(value)


@builtin("cast_string")
def cast_string(context: Context, value: Value) -> Value:
    return string(value)


@builtin("trace")
def trace(context: Context, note: Value) -> Value:
    """Do nothing: nobody reads the notes."""
    if not isinstance(note, str):
        raise Undefined
    return True


@builtin("internal.print")
def print_nothing(context: Context, items: Value) -> Value:
    """Do nothing: nobody reads what is printed."""
    return True
