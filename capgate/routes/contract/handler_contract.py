"""Holds :class:`HandlerContract` and its parts, checked; reads and writes it, and turns it into a policy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from ...actions import BUILTIN_ACTIONS, SECTIONS, is_action_name
from ...errors import ConfigError
from ...facts import is_argument_name
from ...limits import check_digest
from ...model import Resource
from ...policy import RuntimePolicy, is_label
from ...policy.spelled import is_writable
from ...policy.strict import is_unicode, parse_json
from ..declare import Parameter, parse_resource, write_resource

#: The version of the layout.
FORMAT: Final = 2
#: In place of a digest: there is no such thing.
ZEROS: Final = "0" * 64

_BUILTIN: Final = {action.name: action for action in BUILTIN_ACTIONS}
#: The operations that a ``sql`` entry is given: one for each class.
_OPERATIONS: Final = ("read", "write", "migrate")
_STEP: Final = re.compile(r"\.([A-Za-z0-9]+)|\[([0-9]+)]")
_STATUS: Final = re.compile(r"[a-z][a-z_]{0,63}", re.ASCII)
#: Where an argument is: the part of the request, and what it is called there.
_SOURCE: Final = re.compile(r"[a-z]{1,32}:[^\x00-\x1f\x7f\ud800-\udfff]{0,1024}")
_METHOD: Final = re.compile(r"[!-~]{1,64}", re.ASCII)
_RESOURCE: Final = "null, 'kind' or 'kind:id', the id with {path_parameters} and literal braces doubled"


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a contract and its parts have in common: strict, immutable, ``camelCase`` keys in JSON."""


class ContractArgument(Part, frozen=True):
    """An argument that the policy is told, and where in the request it is, as declared, such as ``json:/amount``."""

    name: str
    source: str


class ContractRequirement(Part, frozen=True):
    """One action that has to be allowed.

    ``resource`` is ``kind:id`` or ``kind:{param}`` as declared, ``dynamic`` where a path parameter takes part in it.
    ``args_hash`` is ``"body"`` or ``None``. ``facts`` says whether attributes of the resource are looked up, and
    ``args`` which arguments the policy is told, sorted by name.
    """

    action: str
    resource: str | None
    dynamic: bool
    args_hash: str | None
    facts: bool
    args: tuple[ContractArgument, ...]

    def __str__(self) -> str:
        what = f"{self.action} on {self.resource}" if self.resource else self.action
        told = [f"the hash of its {self.args_hash}"] if self.args_hash else []
        told += ["facts of the resource"] if self.facts else []
        told += [f"{argument.name} of {argument.source}" for argument in self.args]
        return quoted(f"{what} with {', '.join(told)}" if told else what)


class ContractRoute(Part, frozen=True):
    """One route: ``path`` as among public routes, ``status`` as :data:`capgate.routes.precedence.Status` has it.

    All of the ``requirements`` have to be allowed, in whichever order.
    """

    path: str
    methods: tuple[str, ...]
    status: str
    requirements: tuple[ContractRequirement, ...]

    @property
    def name(self) -> str:
        """Methods and path, for people."""
        return quoted(f"{'|'.join(self.methods)} {self.path}".strip())

    def __str__(self) -> str:
        needs = [*map(str, self.requirements)]
        if not needs or self.status != "declared":
            needs.append(quoted(self.status))
        return f"{self.name}: {', '.join(needs)}"


class ContractAction(Part, frozen=True):
    """An action that some route needs, with its metadata: see :class:`capgate.actions.Action`."""

    name: str
    section: str
    kind: str | None
    resource_required: bool
    operations: tuple[str, ...]


class ContractSection(Part, frozen=True):
    """The resource ids of one capability class.

    ``static`` are those that are written down, sorted; host names are in lower case, as policies compare them.
    ``dynamic`` says whether there are others, which only requests tell.
    """

    static: tuple[str, ...]
    dynamic: bool


class ResourceText(NamedTuple):
    """A declared resource, taken apart. ``id`` is ``None`` where there is none, or a path parameter takes part."""

    kind: str
    id: str | None
    dynamic: bool


def split_resource(text: str) -> ResourceText:
    """Return the parts of ``kind``, ``kind:id`` or ``kind:{param}``.

    Raises ``ValueError`` for anything else, also for another way of writing the same.
    """
    kind, parts = parse_resource(text)
    if write_resource(kind, parts) != text:
        raise ValueError(text)
    literals = [part for part in parts if not isinstance(part, Parameter)]
    dynamic = len(literals) < len(parts)
    if parts and not dynamic and Resource(kind, "".join(literals)).id != "".join(literals):
        raise ValueError(text)
    return ResourceText(kind, None if dynamic or not parts else "".join(literals), dynamic)


def quoted(text: str) -> str:
    """Return ``text`` in printable ASCII: a contract may come from anywhere, and is shown on terminals."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]


def route_key(route: ContractRoute) -> tuple[str, tuple[str, ...]]:
    """Return that by which routes are sorted."""
    return route.path, route.methods


def requirement_key(requirement: ContractRequirement) -> tuple[object, ...]:
    """Return that by which the requirements of a route are sorted."""
    told = tuple((argument.name, argument.source) for argument in requirement.args)
    return requirement.action, requirement.resource or "", requirement.args_hash or "", requirement.facts, told


class ContractNeed(NamedTuple):
    """A requirement of some route.

    ``id`` is the resource's where it is known. ``open`` says that only requests tell it, or that there is none and the
    action does without.
    """

    action: ContractAction
    id: str | None
    open: bool


class HandlerContract(Part, frozen=True, kw_only=True):
    """What an application declares.

    Made by :func:`capgate.middleware.contract.contract_of`, or read by :meth:`from_json`. ``policy_hash``,
    ``wasm_policy_hash`` and ``artifact_sha256`` are 64 lower-case hex digits each. ``routes`` are sorted by path and
    methods; those that have the same of both stand in the order in which they are tried. ``actions`` are all that
    routes need, and no others. Anything else raises :class:`ConfigError`, whose ``setting`` is the path of the key in
    JSON. So a contract that exists is a consistent one.
    """

    policy_hash: str
    wasm_policy_hash: str = ZEROS
    artifact_sha256: str = ZEROS
    service: str | None = None
    routes: tuple[ContractRoute, ...] = ()
    actions: tuple[ContractAction, ...] = ()
    format: int = FORMAT

    def __post_init__(self) -> None:
        require(type(self.format) is int and self.format == FORMAT, "format", self.format, f"{FORMAT}")
        check_digest("policyHash", self.policy_hash)
        check_digest("wasmPolicyHash", self.wasm_policy_hash)
        check_digest("artifactSha256", self.artifact_sha256)
        check_service(self.service)
        check_actions(self.actions)
        check_routes(self.routes, {action.name: action for action in self.actions})

    def needs(self) -> Iterator[ContractNeed]:
        """Yield every requirement of every route."""
        actions = {action.name: action for action in self.actions}
        for route in self.routes:
            for requirement in route.requirements:
                action = actions[requirement.action]
                id = None if requirement.resource is None else split_resource(requirement.resource).id
                yield ContractNeed(action, id, requirement.dynamic or (id is None and not action.resource_required))

    @property
    def sections(self) -> dict[str, ContractSection]:
        """What routes need of each capability class."""
        static: dict[str, set[str]] = {}
        dynamic = set()
        for action, id, open in self.needs():
            static.setdefault(action.section, set()).update(() if id is None else (id,))
            if open:
                dynamic.add(action.section)
        return {name: ContractSection(tuple(sorted(ids)), name in dynamic) for name, ids in sorted(static.items())}

    def to_json(self) -> bytes:
        """Return the one text of this contract: ASCII, indented by two, keys sorted, a newline at its end."""
        fields = {**msgspec.to_builtins(self), "sections": msgspec.to_builtins(self.sections)}
        return f"{json.dumps(fields, indent=2, sort_keys=True)}\n".encode("ascii")

    @classmethod
    def from_json(cls, text: str | bytes) -> HandlerContract:
        """Return the contract that ``text`` is. White space and the order of keys are free, and nothing else is.

        Raises :class:`ConfigError`, whose ``setting`` is the path of the key, for what is no strict JSON. Raises it for
        keys that are unknown, missing or there twice, wrong types, malformed digests and lists that are not sorted. It
        raises it, too, for sections other than those that follow from the routes.
        """
        raw = _parse(text)
        for key in raw:
            require(key in KEYS, _shown(key), key, f"the keys {', '.join(KEYS)}")
        for key in KEYS:
            require(key in raw, key, None, "a key that is always there")
        sections = raw.pop("sections")
        try:
            contract = msgspec.convert(raw, cls)
        except msgspec.ValidationError as error:
            raise _located(error, raw) from None
        except UnicodeEncodeError as error:  # a lone surrogate where numbers would do, too
            raise ConfigError("contract", error.object, "text without lone surrogates") from None
        follow = {
            name: {"static": [*section.static], "dynamic": section.dynamic}
            for name, section in contract.sections.items()
        }
        _check_follows("sections", sections, follow)
        return contract

    def policy_document(self) -> dict[str, Any]:
        """Return the policy document, as :meth:`RuntimePolicy.from_document` takes it, that admits what is listed here.

        A section whose ids are all written down admits exactly those. A section in which something is dynamic is
        ``"any"``, because a contract cannot list what only requests tell. The others admit nothing. ``sql`` entries
        keep the kind of operation (read, write, migrate), and of ``actions`` each is a section for itself.

        In the other sections an id is admitted for every action: one declared for ``cache.read`` also for
        ``cache.write``. Of an application's own action, ``"any"`` admits questions without a resource, too.

        What handlers ask for themselves, and no route declares, is not in a contract, and not admitted. Raises
        :class:`ConfigError` where the metadata of an action are not those that this version goes by. Raises it, too,
        for an id that no document can say: one with ``*``, which would be a wildcard, or with blanks around it.
        """
        document: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for index, action in enumerate(self.actions):
            _check_metadata(f"actions[{index}]", action)
            group, key = _group(action, document, own)
            group.setdefault(key, [])
        for action, id, open in self.needs():
            group, key = _group(action, document, own)
            entry = {"name": id, "operation": _operation(action)} if action.section == "sql" else id
            if open:
                group[key] = "any"
            elif id is not None and group[key] != "any" and entry not in group[key]:
                if not is_writable(action.kind or "", id):
                    raise ConfigError("resource", id, "an id without '*' and without blanks around it")
                group[key].append(entry)
        name = self.service if is_label(self.service) else "contract"
        return {"name": name, "version": "0", **document, **({"actions": own} if own else {})}


#: Every key of a contract in JSON.
KEYS: Final = tuple(sorted((*HandlerContract.__struct_encode_fields__, "sections")))


def policy_from_contract(contract: HandlerContract) -> RuntimePolicy:
    """Return the policy that admits what ``contract`` lists: see :meth:`HandlerContract.policy_document`."""
    return RuntimePolicy.from_document(contract.policy_document())


def _group(action: ContractAction, document: dict[str, Any], own: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return where the entries of ``action`` go, and the key there."""
    return (own, action.name) if action.section == "actions" else (document, action.section)


def _check_metadata(where: str, action: ContractAction) -> None:
    """Raise unless a policy document admits ``action`` through the section that it names."""
    known = _BUILTIN.get(action.name)
    if known is None:
        require(action.section == "actions", f"{where}.section", action.section, "'actions', for it is no built-in one")
        return
    for name, key in zip(action.__struct_fields__, action.__struct_encode_fields__, strict=True):
        seen, value = getattr(action, name), getattr(known, name)
        require(seen == value, f"{where}.{key}", seen, f"{value!r}, as in this version of capgate")


def _operation(action: ContractAction) -> str:
    return next((name for name in _OPERATIONS if name in action.operations), "read")


# -- what has to hold of a contract


def require(holds: bool, setting: str, seen: object, valid: str) -> None:
    """Raise :class:`ConfigError` unless ``holds``."""
    if not holds:
        raise ConfigError(setting, seen, valid)


def check_service(value: object) -> None:
    """Raise unless ``value`` is ``None``, or what :class:`~capgate.settings.settings.Settings` takes for a service."""
    printable = isinstance(value, str) and 1 <= len(value) <= 256 and value.isprintable()
    require(value is None or printable, "service", value, "null, or printable text of 1 to 256 characters")


def check_actions(actions: tuple[ContractAction, ...]) -> None:
    """Raise unless ``actions`` are sorted by name, and each is an action as a vocabulary could have it."""
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
    """Raise unless ``routes`` are sorted and well-formed, and need ``actions``, each of them, and nothing else."""
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


def _check_requirement(where: str, requirement: ContractRequirement, actions: Mapping[str, ContractAction]) -> None:
    action, resource = requirement.action, requirement.resource
    known = isinstance(action, str) and action in actions
    require(known, f"{where}.action", action, "one of the contract's actions")
    require(requirement.args_hash in (None, "body"), f"{where}.argsHash", requirement.args_hash, "null or 'body'")
    _check_flag(f"{where}.facts", requirement.facts)
    require(resource is not None or not requirement.facts, f"{where}.facts", True, "false without a resource")
    _check_tuple(f"{where}.args", requirement.args, ContractArgument)
    for index, argument in enumerate(requirement.args):
        name, source = argument.name, argument.source
        require(is_argument_name(name), f"{where}.args[{index}].name", name, "a to z, then a to z, 0 to 9 and _")
        require(_matches(_SOURCE, source), f"{where}.args[{index}].source", source, "such as 'json:/amount'")
    _check_order(f"{where}.args", requirement.args, lambda argument: argument.name)
    split = None if resource is None else _split(f"{where}.resource", resource)
    kind = actions[action].kind
    if split is not None and kind is not None:
        require(split.kind == kind, f"{where}.resource", resource, f"a resource of kind {kind!r}")
    dynamic, said = split is not None and split.dynamic, requirement.dynamic
    _check_flag(f"{where}.dynamic", said)
    require(said is dynamic, f"{where}.dynamic", said, f"{dynamic}, as the resource is {resource!r}")


def _split(where: str, resource: object) -> ResourceText:
    if isinstance(resource, str) and is_unicode(resource):
        try:
            return split_resource(resource)
        except ValueError:
            pass
    raise ConfigError(where, resource, _RESOURCE)


def _check_tuple(where: str, items: object, cls: type) -> None:
    holds = type(items) is tuple and all(isinstance(item, cls) for item in items)
    require(holds, where, items, f"a tuple, each of them a {cls.__name__}")


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


# -- from JSON


def _parse(text: str | bytes) -> dict[str, Any]:
    try:
        raw = parse_json(text)
    except ConfigError as error:
        setting = "contract" if error.setting == "document" else error.setting
        raise ConfigError(setting, error.seen, error.valid) from error
    if not isinstance(raw, dict):
        raise ConfigError("contract", type(raw).__name__, f"an object with the keys {', '.join(KEYS)}")
    return raw


def _located(error: msgspec.ValidationError, raw: object) -> ConfigError:
    """Return ``error`` with the path that it names, and the value there."""
    sentence, _, path = str(error).partition(" - at `$")
    seen: Any = raw
    for key, index in _STEP.findall(path):
        seen = seen[key or int(index)]
    if isinstance(seen, (dict, list)):
        seen = type(seen).__name__
    return ConfigError(path.rstrip("`").lstrip(".") or "contract", seen, sentence)


def _check_follows(where: str, seen: object, wanted: object) -> None:
    """Raise unless ``seen`` is ``wanted``, and of the same types: in Python ``1 == True``."""
    if isinstance(seen, dict) and isinstance(wanted, dict):
        for key in sorted({*seen, *wanted}):
            require(key in wanted, f"{where}.{_shown(key)}", key, f"the keys {', '.join(wanted)}")
            _check_follows(f"{where}.{_shown(key)}", seen.get(key), wanted[key])
        return
    same = type(seen) is type(wanted) and seen == wanted
    texts = isinstance(seen, list) and all(isinstance(item, str) for item in seen)
    shown = type(seen).__name__ if isinstance(seen, (dict, list)) and not texts else seen
    require(same, where, shown, f"{wanted!r}, which follows from the routes")


def _shown(key: str) -> str:
    return ascii(key)[1:-1][:128]
