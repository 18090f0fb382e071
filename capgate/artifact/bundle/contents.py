"""Reads of an OPA bundle what runs of it: one module and its data. The bytes are hostile, and nothing is written.

Format: OPA's documentation, "Bundles", "Bundle File Format". Rego sources are not read; they count only for the
signature. A file that OPA would take for something else because of its name is rejected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from ...errors import BundleError
from .archive import unpack
from .exact_json import canonical_json, merge_data, read_json
from .exact_yaml import read_data
from .signature import SIGNATURES, BundleKeys, BundleSignature

MANIFEST: Final = ".manifest"
MODULE: Final = "policy.wasm"
#: Bytes of all ``data.json`` together, which as values take up to sixty times as many; and of ``.manifest``.
DATA_BYTES: Final = 4_194_304
MANIFEST_BYTES: Final = 1_048_576
#: Bytes of all ``data.yaml`` together, which take up to 15 microseconds each to read: ``opa build`` makes JSON of them.
YAML_BYTES: Final = 262_144
_LIMITS: Final = {"data.json": DATA_BYTES, "data.yaml": YAML_BYTES, MANIFEST: MANIFEST_BYTES}
_READERS: Final = {"data.json": read_json, "data.yaml": read_data}
#: Roots, and entry points, that a manifest may list.
LISTED: Final = 256
_TEXT_LENGTH: Final = 256

_Version = Literal[0, 1]


class Resolver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry point, and the name of the module that has it."""

    entrypoint: str
    module: str
    annotations: list[Any] = []


class BundleManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file ``.manifest``, with OPA's defaults: a bundle without roots owns everything."""

    revision: str = ""
    roots: tuple[str, ...] = ("",)
    wasm: tuple[Resolver, ...] = ()
    rego_version: _Version | None = None
    file_rego_versions: dict[str, _Version] = {}
    metadata: dict[str, Any] = {}


class Bundle(msgspec.Struct, frozen=True):
    """What is known about a bundle.

    ``revision``     what the manifest calls this version, ``""`` where it does not
    ``roots``        the paths of data and policies that the bundle owns, without slashes around; ``""`` is everything
    ``entrypoints``  those that the manifest lists; the module may have others
    ``module``       the name of the module in it
    ``files``        each file with its size in bytes, in the order of the archive
    ``is_signed``    whether there is a ``.signatures.json``; says nothing about what that is worth
    ``signature``    the signature that was verified, ``None`` where no keys were given
    """

    revision: str
    roots: tuple[str, ...]
    entrypoints: tuple[str, ...]
    module: str
    files: dict[str, int]
    is_signed: bool
    signature: BundleSignature | None


class Unpacked(msgspec.Struct, frozen=True):
    """``module`` is its bytes, ``data`` one JSON object in canonical text."""

    bundle: Bundle
    module: bytes
    data: bytes


def read_bundle(data: bytes, most: int, keys: BundleKeys | None = None, *, path: str | None = None) -> Unpacked:
    """Unpack at most ``most`` bytes, verify, then read.

    With ``keys``, nothing that is in the bundle is looked at before its signature holds, but for the sizes of its
    files. Raises :class:`SignatureInvalid` or :class:`BundleError`.
    """
    files = unpack(data, most, path=path)
    _check_sizes(files, path)
    signature = None if keys is None else keys.verify(files, path=path)
    try:
        _check_names(files)
        manifest = _manifest(files)
        roots = tuple(root.strip("/") for root in manifest.roots)
        _check_roots(roots)
        name = _module_name(files, manifest.wasm)
        _check_resolvers(manifest.wasm, roots)
        merged = _data(files)
        _check_data(merged, roots)
        text = canonical_json(merged, "data.json")
    except BundleError as error:
        raise BundleError(str(error), reason=error.reason, member=error.member, path=path) from error
    sizes = {file: len(content) for file, content in files.items()}
    entrypoints = tuple(resolver.entrypoint for resolver in manifest.wasm)
    bundle = Bundle(manifest.revision, roots, entrypoints, name, sizes, SIGNATURES in files, signature)
    return Unpacked(bundle, files[name], text)


def _check_sizes(files: Mapping[str, bytes], path: str | None) -> None:
    """Raise :class:`BundleError` for structured files that are too large, before anything else is done with them.

    Of those the value is hashed. Whoever replaces one in a signed bundle would otherwise choose how much memory it
    takes to find that out.
    """
    for base, limit in _LIMITS.items():
        names = [name for name in files if name.rpartition("/")[2] == base]
        size = sum(len(files[name]) for name in names)
        if size > limit:
            message = f"{size} bytes in files named {base}, the limit is {limit}"
            raise BundleError(message, reason="size", member=names[0] if len(names) == 1 else None, path=path)


def _check_names(files: Mapping[str, bytes]) -> None:
    for name in files:
        folder, _, base = name.rpartition("/")
        if base == "patch.json":
            message = f"{name!r} makes it a bundle of changes, which has no policy; build a whole one"
            raise BundleError(message, reason="delta", member=name)
        if base == "data.yml":
            message = f"{name!r}: some versions of OPA read it, and others do not; call it data.yaml"
            raise BundleError(message, reason="data", member=name)
        for special in (SIGNATURES, MANIFEST):
            if name.endswith(special.removeprefix(".") if special == SIGNATURES else special) and name != special:
                raise BundleError(f"{name!r} would be {special!r} to OPA", reason="name", member=name)
        if base in _READERS and folder.startswith("."):
            raise BundleError(f"{name!r} would be elsewhere to OPA: it leaves out the dot", reason="name", member=name)


def _manifest(files: Mapping[str, bytes]) -> BundleManifest:
    text = files.get(MANIFEST)
    if text is None:
        return BundleManifest()
    canonical_json(read_json(text, MANIFEST, "manifest"), MANIFEST, "manifest")  # strict, and not too deep
    try:
        manifest = msgspec.json.decode(text, type=BundleManifest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BundleError(f"{MANIFEST}: {error}", reason="manifest", member=MANIFEST) from error
    if len(manifest.revision) > _TEXT_LENGTH or not manifest.revision.isprintable():
        message = f"{MANIFEST}: the revision is no printable text of at most {_TEXT_LENGTH} characters"
        raise BundleError(message, reason="manifest", member=MANIFEST)
    if len(manifest.roots) > LISTED or len(manifest.wasm) > LISTED:
        message = f"{MANIFEST}: more than {LISTED} roots, or entry points"
        raise BundleError(message, reason="manifest", member=MANIFEST)
    return manifest


def _check_roots(roots: tuple[str, ...]) -> None:
    for index, root in enumerate(roots):
        for other in roots[index + 1 :]:
            if _is_within(_parts(root), _parts(other)) or _is_within(_parts(other), _parts(root)):
                message = f"{MANIFEST}: the roots {root!r} and {other!r} overlap"
                raise BundleError(message, reason="manifest", member=MANIFEST)


def _module_name(files: Mapping[str, bytes], resolvers: tuple[Resolver, ...]) -> str:
    modules = [name for name in files if name.endswith(".wasm")]
    named = {resolver.module.removeprefix("/") for resolver in resolvers}
    if len(modules) != 1:
        hint = f": {modules[:8]}" if modules else "; opa build -t wasm makes one of Rego"
        message = f"{len(modules)} modules are in it, where one is needed{hint}"
        raise BundleError(message, reason="module", member=modules[1] if modules else None)
    if named - {modules[0]} or (not named and modules[0] != MODULE):
        message = (
            f"the module is {modules[0]!r}, the manifest names {sorted(named)}; without a manifest it is {MODULE!r}"
        )
        raise BundleError(message, reason="module", member=modules[0])
    return modules[0]


def _check_resolvers(resolvers: tuple[Resolver, ...], roots: tuple[str, ...]) -> None:
    seen = set()
    for resolver in resolvers:
        name = resolver.entrypoint
        if name in seen or not name or len(name) > _TEXT_LENGTH or not name.isprintable():
            message = f"{MANIFEST}: the entry point {name!r} is listed twice, or no name"
            raise BundleError(message, reason="manifest", member=MANIFEST)
        if not any(_is_within(_parts(name), _parts(root)) for root in roots):
            message = f"{MANIFEST}: the entry point {name!r} is in none of the roots {list(roots[:8])}"
            raise BundleError(message, reason="roots", member=MANIFEST)
        seen.add(name)


def _data(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the data of all files, JSON and YAML, each at the path of its folder."""
    merged: dict[str, Any] = {}
    for name, content in files.items():
        read = _READERS.get(name.rpartition("/")[2])
        if read is None:
            continue
        value = read(content, name)
        for part in reversed(name.split("/")[:-1]):
            value = {part: value}
        if not isinstance(value, dict):
            raise BundleError(f"{name!r} is not an object", reason="data", member=name)
        merge_data(merged, value, name)
    return merged


def _check_data(data: dict[str, Any], roots: tuple[str, ...]) -> None:
    """Raise :class:`BundleError` for data where the bundle does not say that it owns them.

    Folders on the way there may be.
    """
    owned = [_parts(root) for root in roots]
    work: list[tuple[tuple[str, ...], Any]] = [((), data)] if data else []
    while work:
        path, value = work.pop()
        if any(_is_within(path, root) for root in owned):
            continue
        if not isinstance(value, dict) or not any(_is_within(root, path) for root in owned):
            message = f"data at {'/'.join(path)!r} are in none of the roots {list(roots[:8])}"
            raise BundleError(message, reason="roots")
        work.extend(((*path, key), inner) for key, inner in value.items())


def _parts(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")) if path else ()


def _is_within(path: tuple[str, ...], root: tuple[str, ...]) -> bool:
    return path[: len(root)] == root
