"""What has to hold of a contract. Each violation is a :class:`ConfigError` whose ``setting`` is the path of a key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from ...actions import SECTIONS, is_action_name
from ...errors import ConfigError
from ...policy.strict import is_unicode
from .parts import (
    ContractAction,
    ContractRequirement,
    ContractRoute,
    ResourceText,
    requirement_key,
    route_key,
    split_resource,
)

_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_STATUS: Final = re.compile(r"[a-z][a-z_]{0,63}", re.ASCII)
_METHOD: Final = re.compile(r"[!-~]{1,64}", re.ASCII)
_RESOURCE: Final = "null, 'kind' or 'kind:id', the id with {path_parameters} and literal braces doubled"


def require(holds: bool, setting: str, seen: object, valid: str) -> None:
    """Raise :class:`ConfigError` unless ``holds``."""
    if not holds:
        raise ConfigError(setting, seen, valid)


def check_digest(setting: str, value: object) -> None:
    """64 lower-case hex digits."""
    require(_matches(_DIGEST, value), setting, value, "64 lower-case hex digits")


def check_service(value: object) -> None:
    """``None``, or what :class:`~capgate.settings.settings.Settings` takes for a service."""
    printable = isinstance(value, str) and 1 <= len(value) <= 256 and value.isprintable()
    require(value is None or printable, "service", value, "null, or printable text of 1 to 256 characters")


def check_actions(actions: tuple[ContractAction, ...]) -> None:
    """Sorted by name, and each one an action as a vocabulary could have it."""
    _check_tuple("actions", actions, ContractAction)
    for index, action in enumerate(actions):
        where = f"actions[{index}]"
        require(is_action_name(action.name), f"{where}.name", action.name, "lower-case words joined by dots")
        require(action.section in SECTIONS, f"{where}.section", action.section, f"one of {', '.join(SECTIONS)}")
        require(action.kind is None or _is_text(action.kind), f"{where}.kind", action.kind, "null or a resource kind")
        _check_flag(f"{where}.resourceRequired", action.resource_required)
        _check_tuple(f"{where}.operations", action.operations, str)
        _check_order(f"{where}.operations", action.operations, str)
    _check_order("actions", actions, lambda action: action.name)


def check_routes(routes: tuple[ContractRoute, ...], actions: Mapping[str, ContractAction]) -> None:
    """Sorted, well-formed, and in need of nothing but ``actions``, of which each is needed."""
    _check_tuple("routes", routes, ContractRoute)
    used = set()
    for index, route in enumerate(routes):
        where = f"routes[{index}]"
        require(_is_text(route.path), f"{where}.path", route.path, "non-empty text without lone surrogates")
        require(_matches(_STATUS, route.status), f"{where}.status", route.status, "a word such as 'declared'")
        _check_tuple(f"{where}.methods", route.methods, str)
        for method in route.methods:
            require(_matches(_METHOD, method), f"{where}.methods", method, "HTTP methods")
        _check_order(f"{where}.methods", route.methods, str)
        _check_tuple(f"{where}.requirements", route.requirements, ContractRequirement)
        for number, requirement in enumerate(route.requirements):
            _check_requirement(f"{where}.requirements[{number}]", requirement, actions)
            used.add(requirement.action)
        _check_order(f"{where}.requirements", route.requirements, requirement_key)
    _check_order("routes", routes, route_key, once=False)
    for index, name in enumerate(actions):
        require(name in used, f"actions[{index}].name", name, "only actions that a route needs")


def _check_requirement(where: str, one: ContractRequirement, actions: Mapping[str, ContractAction]) -> None:
    known = isinstance(one.action, str) and one.action in actions
    require(known, f"{where}.action", one.action, "one of the contract's actions")
    require(one.args_hash in (None, "body"), f"{where}.argsHash", one.args_hash, "null or 'body'")
    split = None if one.resource is None else _split(f"{where}.resource", one.resource)
    kind = actions[one.action].kind
    if split is not None and kind is not None:
        require(split.kind == kind, f"{where}.resource", one.resource, f"a resource of kind {kind!r}")
    dynamic = split is not None and split.dynamic
    _check_flag(f"{where}.dynamic", one.dynamic)
    require(one.dynamic is dynamic, f"{where}.dynamic", one.dynamic, f"{dynamic}, as the resource is {one.resource!r}")


def _split(where: str, resource: object) -> ResourceText:
    if isinstance(resource, str) and is_unicode(resource):
        try:
            return split_resource(resource)
        except ValueError:
            pass
    raise ConfigError(where, resource, _RESOURCE)


def _check_tuple(where: str, items: object, kind: type) -> None:
    holds = type(items) is tuple and all(isinstance(one, kind) for one in items)
    require(holds, where, items, f"a tuple, each of them a {kind.__name__}")


def _check_order(where: str, items: tuple[Any, ...], key: Callable[[Any], Any], *, once: bool = True) -> None:
    for index in range(1, len(items)):
        before, this = key(items[index - 1]), key(items[index])
        holds = before < this or (before == this and not once)
        require(holds, f"{where}[{index}]", this, f"sorted{', each once' if once else ''}; it comes after {before!r}")


def _check_flag(where: str, value: object) -> None:
    require(value is True or value is False, where, value, "true or false")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value) and is_unicode(value)


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
