""":class:`HandlerContract`: read, written, and turned into the policy that admits what it lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from ...actions import BUILTIN_ACTIONS
from ...errors import ConfigError
from ...policy import RuntimePolicy, ascii_lower, is_label
from ...policy.strict import parse_json
from .checks import check_actions, check_digest, check_routes, check_service, require
from .parts import ZEROS, ContractAction, ContractRoute, ContractSection, Part, split_resource

#: The version of the layout.
FORMAT: Final = 1

_BUILTIN: Final = {action.name: action for action in BUILTIN_ACTIONS}
#: The operations that a ``sql`` entry is given: one for each class.
_OPERATIONS: Final = ("read", "write", "migrate")
_STEP: Final = re.compile(r"\.([A-Za-z0-9]+)|\[([0-9]+)]")


class Need(NamedTuple):
    """A requirement of some route. ``id`` is the resource's where it is known; ``open`` says that only requests tell
    it, or that there is none and the action does without."""

    action: ContractAction
    id: str | None
    open: bool


class HandlerContract(Part, frozen=True, kw_only=True):
    """What an application declares. Made by :func:`capgate.middleware.contract.contract_of`, or read by :meth:`from_json`.

    ``policy_hash``, ``wasm_policy_hash`` and ``artifact_sha256`` are 64 lower-case hex digits each. ``routes`` are
    sorted by path and methods; those that have the same of both stand in the order in which they are tried.
    ``actions`` are all that routes need, and no others. Anything else raises :class:`ConfigError`, whose ``setting`` is
    the path of the key in JSON: a contract that exists is a consistent one.
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

    def needs(self) -> Iterator[Need]:
        """Every requirement of every route."""
        actions = {action.name: action for action in self.actions}
        for route in self.routes:
            for one in route.requirements:
                action = actions[one.action]
                id = None if one.resource is None else split_resource(one.resource).id
                if id is not None and action.kind == "host":
                    id = ascii_lower(id)
                yield Need(action, id, one.dynamic or (id is None and not action.resource_required))

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
        """The one text of this contract: ASCII, indented by two, keys sorted, a newline at its end."""
        fields = {**msgspec.to_builtins(self), "sections": msgspec.to_builtins(self.sections)}
        return f"{json.dumps(fields, indent=2, sort_keys=True)}\n".encode("ascii")

    @classmethod
    def from_json(cls, text: str | bytes) -> HandlerContract:
        """The contract that ``text`` is. White space and the order of keys are free, and nothing else is.

        Raises :class:`ConfigError`, whose ``setting`` is the path of the key: for what is no strict JSON, keys that are
        unknown, missing or there twice, wrong types, malformed digests, lists that are not sorted, and sections other
        than those that follow from the routes.
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
        follow = {name: {"static": [*one.static], "dynamic": one.dynamic} for name, one in contract.sections.items()}
        _check_follows("sections", sections, follow)
        return contract

    def policy_document(self) -> dict[str, Any]:
        """The policy document, as :meth:`RuntimePolicy.from_document` takes it, that admits what is listed here.

        A section whose ids are all written down admits exactly those; a section in which something is dynamic is
        ``"any"``, because a contract cannot list what only requests tell; the others admit nothing. ``sql`` entries
        keep the kind of operation (read, write, migrate), and of ``actions`` each is a section for itself. In the other
        sections an id is admitted for every action: one declared for ``cache.read`` also for ``cache.write``. Of an
        application's own action, ``"any"`` admits questions without a resource, too.

        What handlers ask for themselves, and no route declares, is not in a contract, and not admitted. Raises
        :class:`ConfigError` where the metadata of an action are not those that this version goes by.
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
                group[key].append(entry)
        name = self.service if is_label(self.service) else "contract"
        return {"name": name, "version": "0", **document, **({"actions": own} if own else {})}


#: Every key of a contract in JSON.
KEYS: Final = tuple(sorted((*HandlerContract.__struct_encode_fields__, "sections")))


def policy_from_contract(contract: HandlerContract) -> RuntimePolicy:
    """The policy that admits what ``contract`` lists: see :meth:`HandlerContract.policy_document`."""
    return RuntimePolicy.from_document(contract.policy_document())


def _group(action: ContractAction, document: dict[str, Any], own: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Where the entries of ``action`` go, and under which key."""
    return (own, action.name) if action.section == "actions" else (document, action.section)


def _check_metadata(where: str, action: ContractAction) -> None:
    """That a policy document admits ``action`` through the section that it names."""
    known = _BUILTIN.get(action.name)
    if known is None:
        require(action.section == "actions", f"{where}.section", action.section, "'actions', for it is no built-in one")
        return
    for name, key in zip(action.__struct_fields__, action.__struct_encode_fields__, strict=True):
        seen, value = getattr(action, name), getattr(known, name)
        require(seen == value, f"{where}.{key}", seen, f"{value!r}, as in this version of capgate")


def _operation(action: ContractAction) -> str:
    return next((name for name in _OPERATIONS if name in action.operations), "read")


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
    """``error`` with the path that it names, and the value there."""
    sentence, _, path = str(error).partition(" - at `$")
    seen: Any = raw
    for key, index in _STEP.findall(path):
        seen = seen[key or int(index)]
    if isinstance(seen, (dict, list)):
        seen = type(seen).__name__
    return ConfigError(path.rstrip("`").lstrip(".") or "contract", seen, sentence)


def _check_follows(where: str, seen: object, wanted: object) -> None:
    """That ``seen`` is ``wanted``, and of the same types: in Python ``1 == True``."""
    if isinstance(seen, dict) and isinstance(wanted, dict):
        for key in sorted({*seen, *wanted}):
            require(key in wanted, f"{where}.{_shown(key)}", key, f"the keys {', '.join(wanted)}")
            _check_follows(f"{where}.{_shown(key)}", seen.get(key), wanted[key])
        return
    same = type(seen) is type(wanted) and seen == wanted
    texts = isinstance(seen, list) and all(isinstance(one, str) for one in seen)
    shown = type(seen).__name__ if isinstance(seen, (dict, list)) and not texts else seen
    require(same, where, shown, f"{wanted!r}, which follows from the routes")


def _shown(key: str) -> str:
    return ascii(key)[1:-1][:128]
