"""What a contract is made of, and how a resource is written in one."""

from __future__ import annotations

import re
import string
from typing import Final, NamedTuple

import msgspec

#: In place of a digest: there is no such thing.
ZEROS: Final = "0" * 64

_KIND: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a contract and its parts have in common: strict, immutable, ``camelCase`` keys in JSON."""


class ContractRequirement(Part, frozen=True):
    """One action that has to be allowed. ``resource`` is ``kind:id`` or ``kind:{param}`` as declared, ``dynamic`` where
    a path parameter takes part in it; ``args_hash`` is ``"body"`` or ``None``."""

    action: str
    resource: str | None
    dynamic: bool
    args_hash: str | None

    def __str__(self) -> str:
        what = f"{self.action} on {self.resource}" if self.resource else self.action
        return quoted(f"{what} with the hash of its {self.args_hash}" if self.args_hash else what)


class ContractRoute(Part, frozen=True):
    """One route: ``path`` as among public routes, ``status`` as :mod:`capgate.routes.report` says; all of the ``requirements``
    have to be allowed, in whichever order."""

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
    """The resource ids of one capability class: those that are written down, sorted (host names in lower case, as
    policies compare them), and whether there are others, which only requests tell."""

    static: tuple[str, ...]
    dynamic: bool


class ResourceText(NamedTuple):
    """A declared resource, taken apart. ``id`` is ``None`` where there is none, or a path parameter takes part."""

    kind: str
    id: str | None
    dynamic: bool


def split_resource(text: str) -> ResourceText:
    """The parts of ``kind``, ``kind:id`` or ``kind:{param}``. Raises ``ValueError`` for anything else, also for another
    way of writing the same."""
    kind, colon, template = text.partition(":")
    parts = list(string.Formatter().parse(template))
    written = "".join(escape(literal) + ("" if name is None else f"{{{name}}}") for literal, name, _, _ in parts)
    names = [name for _, name, _, _ in parts if name is not None]
    if not _KIND.fullmatch(kind) or bool(colon) != bool(template) or written != template:
        raise ValueError(text)
    if not all(name.isidentifier() for name in names):
        raise ValueError(text)
    return ResourceText(kind, None if names or not template else "".join(part[0] for part in parts), bool(names))


def escape(literal: str) -> str:
    """``literal`` with its braces doubled, as it stands in a resource that takes path parameters."""
    return literal.replace("{", "{{").replace("}", "}}")


def quoted(text: str) -> str:
    """``text`` in printable ASCII: a contract may come from anywhere, and is shown on terminals."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]


def route_key(route: ContractRoute) -> tuple[str, tuple[str, ...]]:
    """What routes are sorted by."""
    return route.path, route.methods


def requirement_key(requirement: ContractRequirement) -> tuple[str, str, str]:
    """What the requirements of a route are sorted by."""
    return requirement.action, requirement.resource or "", requirement.args_hash or ""
