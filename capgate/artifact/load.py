"""Makes a :class:`WasmArtifact` of a file: reads it once, hashes those bytes, decodes those bytes, keeps those bytes.

Nothing reads the file a second time, so what was checked is what runs. A link is followed: what counts is the regular
file at its end. Where it matters which file that is, the digest is pinned.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, Final

from ..errors import (
    ArtifactError,
    ArtifactNotFound,
    BundleError,
    ConfigError,
    DigestMismatch,
    SignatureInvalid,
    WasmError,
)
from ..limits import Limits, check_digest
from ..model import ONLY_ENTRYPOINT, Entrypoint, PolicyInfo
from ..policy import MonitoredRules, RuntimePolicy
from ..policy.strict import JSON, TOML, parse
from ..wasm import Module, decode
from ..wasm.component import core_module
from ..wasm.decode import MAGIC
from ..wasm.restrict import decode_admitted
from .build import MONITOR_SECTION, Label, is_built_by_capgate, read_label, read_monitored, spoken_facts
from .bundle import Bundle, BundleKeys, is_archive, read_bundle
from .guest.image import SpokenFacts

DEFAULT_LIMITS: Final = Limits()

#: The interfaces that a module may have, see :attr:`WasmArtifact.abi`, and what shows the second one.
CAPGATE: Final = "capgate"
OPA: Final = "opa"
OPA_VERSION: Final = "opa_wasm_abi_version"
#: What the host has for OPA's modules: its memory, and functions.
OPA_IMPORTS: Final = frozenset(
    ("env", name) for name in ("memory", "opa_abort", "opa_println", *(f"opa_builtin{count}" for count in range(5)))
)
#: An export that shows a module of OPA's of any version, and one that shows a module of capgate's interface.
_OLDER_OPA: Final = b"opa_eval_ctx_new"
_INTERFACE: Final = "capgate:policy/policy@"

#: How modules are asked, see :attr:`WasmArtifact.interface`: the versions of capgate's own interface, and OPA's.
WITHOUT_FACTS: Final = "capgate:policy@0.1.0"
WITH_FACTS: Final = "capgate:policy@0.2.0"
OPA_INTERFACE: Final = "opa:wasm@1"

#: Endings of names by which a file is a module, or a bundle, whatever is in it.
_MODULES: Final = (".wasm", ".tar.gz", ".tgz")

_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CHUNK: Final = 1 << 20
_FILE_TYPES: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@dataclass(frozen=True)
class WasmArtifact:
    """A policy module as read, and what is known about it. Made by :meth:`from_bytes` or :func:`load_wasm_artifact`.

    ``data``     the bytes as read: a core module, or a component around one, or an OPA bundle with one in it
    ``module``   the core module: ``data`` itself unless that is something around it
    ``sha256``   SHA-256 of ``data``, 64 lower-case hex digits
    ``path``     where it was read, or ``None``
    ``name``     of the policy, from the custom section ``capgate:policy``; else the file's without suffix; else ``""``
    ``version``  of the policy, from the same section; else a bundle's revision; else ``""``
    ``inputs``   the fields of a question that answers may depend on, as in :attr:`RuntimePolicy.inputs`; ``None`` where
                 that is not known, because only for capgate's own modules a label proves something
    ``monitored``  the rules that only monitor, which no answer depends on; ``None`` where there are none
    ``abi``      how the module is asked: ``"capgate"`` (the interface of ``policy.wit``), or ``"opa"`` for one that
                 exports the global ``opa_wasm_abi_version``, or that OPA made before it had that
    ``interface``  the same with its version: ``"capgate:policy@0.1.0"``, ``"capgate:policy@0.2.0"`` (also of a module
                   that exports both), or ``"opa:wasm@1"``
    ``rego_data``  for ``"opa"`` the JSON object that policies see as ``data``: ``{}`` for a bare module
    ``entrypoint``  for ``"opa"`` what the manifest says is to be asked, ``None`` where no manifest is
    ``bundle``   what is known about the bundle, ``None`` where ``data`` are none

    ``spoken``   names and types of the facts that a module of capgate's own is to be given with each question

    ``is_built`` whether the module is one that capgate built, as :func:`is_built_by_capgate` says

    Everything but ``data``, ``path`` and ``entrypoint`` is computed from them, so that a digest cannot stand beside
    other bytes. With ``bundle_keys``, only a bundle that one of them has signed becomes an artifact at all.
    """

    data: bytes = field(repr=False)
    path: str | None = None
    entrypoint: Entrypoint | None = None
    pin: InitVar[str | None] = None
    limits: InitVar[Limits] = DEFAULT_LIMITS
    bundle_keys: InitVar[BundleKeys | None] = None
    module: bytes = field(init=False, repr=False, compare=False)
    sha256: str = field(init=False)
    name: str = field(init=False)
    version: str = field(init=False)
    inputs: frozenset[str] | None = field(init=False)
    monitored: MonitoredRules | None = field(init=False, repr=False, compare=False)
    spoken: SpokenFacts = field(init=False, repr=False, compare=False)
    abi: str = field(init=False)
    interface: str = field(init=False)
    rego_data: bytes = field(init=False, repr=False, compare=False)
    bundle: Bundle | None = field(init=False, repr=False, compare=False)
    is_built: bool = field(init=False, repr=False, compare=False)
    _decoded: Module | None = field(init=False, repr=False, compare=False)

    def __post_init__(self, pin: str | None, limits: Limits, bundle_keys: BundleKeys | None) -> None:
        if type(self.data) is not bytes:
            raise TypeError(f"a module is bytes, not {type(self.data).__name__}")
        if pin is not None:
            check_digest("sha256", pin)
        _check_size(len(self.data), limits.module_bytes, self.path)
        digest = hashlib.sha256(self.data).hexdigest()
        if pin is not None and pin != digest:
            raise DigestMismatch(expected=pin, actual=digest, path=self.path)
        inner, rego_data, bundle = _inside(self.data, limits, bundle_keys, self.path)
        core = core_module(inner)
        module = decode_admitted(core, OPA_IMPORTS if _OLDER_OPA in core else ())
        abi, interface = _interface(module)
        if bundle is not None and abi != OPA:
            message = f"{bundle.module!r} is no module of OPA's: it does not export {OPA_VERSION}"
            raise BundleError(message, reason="module", member=bundle.module, path=self.path)
        label = read_label(module)
        name, version = _label(label, self.path)
        try:
            monitored = read_monitored(module)
        except (ConfigError, ValueError) as error:
            message = f"rules that only monitor ({MONITOR_SECTION}) are not as capgate builds them: {error}"
            raise ArtifactError(message, path=self.path) from error
        is_built = label is not None and is_built_by_capgate(module)
        inputs = frozenset(label.inputs) if label is not None and is_built else None
        fields = {
            **{"module": core, "sha256": digest, "name": name, "inputs": inputs, "abi": abi, "rego_data": rego_data},
            **{"version": version or ("" if bundle is None else bundle.revision), "bundle": bundle},
            **{"is_built": is_built, "_decoded": module},
            **{"monitored": monitored, "spoken": spoken_facts(module) if is_built else (), "interface": interface},
        }
        for key, value in fields.items():
            object.__setattr__(self, key, value)

    @classmethod
    def from_bytes(
        cls,
        data: bytes | bytearray | memoryview,
        sha256: str | None = None,
        *,
        limits: Limits = DEFAULT_LIMITS,
        bundle_keys: BundleKeys | None = None,
    ) -> WasmArtifact:
        """Return the artifact that these bytes are: a module, a component, or a bundle as ``opa build`` makes it.

        Raises:

        - :class:`ConfigError` for a malformed pin, :class:`DigestMismatch` for other bytes than those pinned;
        - :class:`ArtifactError` above ``limits.module_bytes``;
        - :class:`DecodeError` for bytes that are no module;
        - :class:`RestrictedModule` for a component around none or several;
        - :class:`BundleError` for a bundle that cannot be used;
        - with ``bundle_keys``, :class:`SignatureInvalid` for whatever is not signed by them;
        - ``TypeError`` for anything but bytes.
        """
        data = bytes(data) if isinstance(data, (bytearray, memoryview)) else data
        return cls(data, pin=sha256, limits=limits, bundle_keys=bundle_keys)

    @property
    def is_component(self) -> bool:
        """Whether the bytes read are a component binary, from which the core module was taken."""
        return self.bundle is None and len(self.module) < len(self.data)

    @property
    def sees_facts(self) -> bool:
        """Whether the module is told of the facts of a question: roles, attributes, arguments, context."""
        return self.is_built or self.interface != WITHOUT_FACTS

    @property
    def decoded(self) -> Module:
        """The module, decoded with its bodies. It takes as much memory as the module once more, until it is let go
        of."""
        module = self._decoded
        if module is None:
            module = decode(self.module)
            object.__setattr__(self, "_decoded", module)
        return module

    def let_go(self) -> None:
        """Let go of :attr:`decoded`: whoever needs it again has it decoded again."""
        object.__setattr__(self, "_decoded", None)

    def without_entrypoint(self) -> WasmArtifact:
        """Return the same artifact without what a manifest says is to be asked."""
        bare = copy.copy(self)
        object.__setattr__(bare, "entrypoint", None)
        return bare

    def asked(self, configured: Entrypoint) -> Entrypoint:
        """Return the entry point to ask: the manifest's, where there is one, and otherwise the configured one.

        Raises :class:`ConfigError` where both are there and differ.
        """
        said = self.entrypoint
        if said is None or configured == said:
            return configured
        if configured != ONLY_ENTRYPOINT:
            raise ConfigError("entrypoint", configured, f"{said}, as the manifest says, or nothing")
        return said

    def info(self, engine: str) -> PolicyInfo:
        """Return name, version and digest for events and statistics, with the engine that runs it."""
        return PolicyInfo(self.name, self.version, self.sha256, engine)


def load_wasm_artifact(
    path: str | os.PathLike[str],
    sha256: str | None = None,
    *,
    limits: Limits = DEFAULT_LIMITS,
    bundle_keys: BundleKeys | None = None,
) -> WasmArtifact:
    """Read the module, or the bundle, at ``path``, once, and check it.

    ``sha256`` pins the bytes: 64 lower-case hex digits. With ``bundle_keys``, only a bundle that one of them has signed
    is taken. At most ``limits.module_bytes`` + 1 bytes are read. Raises:

    - :class:`ConfigError` for a malformed pin;
    - :class:`ArtifactNotFound` where there is no regular file;
    - :class:`DigestMismatch` for another file than the one pinned;
    - :class:`ArtifactError` for everything else that is wrong with it. Bytes that are no acceptable module have the
      :class:`WasmError` as their ``__cause__``.
    """
    if sha256 is not None:
        check_digest("sha256", sha256)
    data = read_bytes(path, limits.module_bytes)
    return artifact_of(data, os.fsdecode(path), sha256, limits, bundle_keys)


def artifact_of(
    data: bytes,
    path: str | None,
    sha256: str | None,
    limits: Limits,
    bundle_keys: BundleKeys | None = None,
    entrypoint: Entrypoint | None = None,
) -> WasmArtifact:
    """Return the artifact that the bytes read at ``path`` are.

    Raises what :func:`load_wasm_artifact` raises for them.
    """
    try:
        return WasmArtifact(data, path, entrypoint, pin=sha256, limits=limits, bundle_keys=bundle_keys)
    except WasmError as error:
        raise ArtifactError(f"{_looks_like(data)}: {error}", path=path) from error


@dataclass(frozen=True)
class PolicyFile:
    """A file with a policy of either form, read once: a module or a document. ``path`` is for people.

    A document has its ``text`` and ``format``, and the value that this is (``raw``).
    """

    path: str
    policy: RuntimePolicy | WasmArtifact = field(repr=False)
    text: bytes = field(default=b"", repr=False)
    format: str = JSON
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def document(self) -> RuntimePolicy | None:
        """The document; ``None`` where this is a module."""
        return self.policy if isinstance(self.policy, RuntimePolicy) else None


def read_policy(path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS) -> PolicyFile:
    """Return the policy at ``path``: a module or a bundle where :func:`is_module` says so, else a document.

    Raises what :func:`load_wasm_artifact` and :func:`load_policy` raise.
    """
    data, shown = read_bytes(path, limits.module_bytes), _shown(path)
    if is_module(data, path):
        return PolicyFile(shown, artifact_of(data, os.fsdecode(path), None, limits))
    format = document_format(path)
    document = RuntimePolicy.from_document(data, format=format, path=shown)
    raw: Any = parse(data, format, shown)
    return PolicyFile(shown, document, data, format, raw)


def is_module(data: bytes, path: str | os.PathLike[str] = "") -> bool:
    """Say whether a file is a module or a bundle, and no document: by how it begins, or what it is called."""
    return data.startswith(MAGIC) or is_archive(data) or os.fsdecode(path).endswith(_MODULES)


def load_policy(path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS) -> RuntimePolicy:
    """Return the policy document at ``path``: TOML where its name ends in ``.toml``, else JSON.

    Raises what :func:`read_bytes` raises, and :class:`ConfigError`, with file, line and column, for a bad document.
    """
    data = read_bytes(path, limits.module_bytes)
    return RuntimePolicy.from_document(data, format=document_format(path), path=_shown(path))


def document_format(path: str | os.PathLike[str]) -> str:
    """Return the format of a policy document by the name of its file.

    It is as :meth:`RuntimePolicy.from_document` takes it.
    """
    return TOML if os.fsencode(path).lower().endswith(b".toml") else JSON


def _shown(path: str | os.PathLike[str]) -> str:
    """Return ``path`` for people: a name need not be text."""
    return os.fsencode(path).decode("utf-8", "replace")


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """Read the regular file at ``path`` once and return its bytes.

    At most ``most`` + 1 bytes are read. Raises :class:`ArtifactNotFound` where there is no regular file, and
    :class:`ArtifactError` for one of more than ``most`` bytes, or one that cannot be read.
    """
    path = os.fsdecode(path)
    try:
        # Asked first as well, because opening a FIFO or a device can itself have an effect.
        _require_regular(os.stat(path), path)
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise _unreadable(error, path) from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        _require_regular(status, path)
        _check_size(status.st_size, most, path)
        try:
            data = _read_up_to(file.read, most + 1)
        except OSError as error:
            raise _unreadable(error, path) from error
    _check_size(len(data), most, path)
    if len(data) != status.st_size:
        raise ArtifactError(f"changed while it was read: {status.st_size} bytes at first, {len(data)} read", path=path)
    return data


def _read_up_to(read: Callable[[int], bytes | None], most: int) -> bytes:
    chunks: list[bytes] = []
    left = most
    while left and (chunk := read(min(left, _CHUNK))):  # a short read is not the end, an empty one is
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _require_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = _FILE_TYPES.get(stat.S_IFMT(status.st_mode), "something else")
        raise ArtifactNotFound(f"is {what}, not a regular file", path=path)


def _check_size(size: int, most: int, path: str | None) -> None:
    if size > most:
        raise ArtifactError(f"{size} bytes or more, the limit is {most}", path=path)


def _unreadable(error: OSError | ValueError, path: str) -> ArtifactError:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    absent = not isinstance(error, OSError) or error.errno in (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    )
    return (ArtifactNotFound if absent else ArtifactError)(f"cannot be read: {text}", path=path)


def _inside(
    data: bytes, limits: Limits, keys: BundleKeys | None, path: str | None
) -> tuple[bytes, bytes, Bundle | None]:
    """Return the module in ``data``, and the data beside it.

    Where keys are configured, nothing but a bundle has a signature that they could verify.
    """
    if not is_archive(data):
        if keys is not None:
            raise SignatureInvalid("it is no bundle, and bundle_keys want a signed one", reason="missing", path=path)
        return data, b"{}", None
    unpacked = read_bundle(data, limits.module_bytes, keys, path=path)
    return unpacked.module, unpacked.data, unpacked.bundle


def _looks_like(data: bytes) -> str:
    if not data:
        return "is empty"
    if data.lstrip().startswith((b"(", b";;")):
        return "is WebAssembly text; a policy is the binary that wat2wasm makes of it"
    return "is not an acceptable WebAssembly module"


def _interface(module: Module) -> tuple[str, str]:
    """Return the interface of ``module``, without and with its version.

    Modules that OPA made before it had numbers of versions are OPA's, too.
    """
    version = module.export(OPA_VERSION)
    if version is not None and version.kind == "global":
        return OPA, OPA_INTERFACE
    is_own = any(item.name.startswith(_INTERFACE) for item in module.exports)
    if not is_own and module.export(_OLDER_OPA.decode()) is not None:
        return OPA, OPA_INTERFACE
    tells_facts = module.export(f"{_INTERFACE}0.2.0#policy-check") is not None
    return CAPGATE, WITH_FACTS if tells_facts else WITHOUT_FACTS


def _label(label: Label | None, path: str | None) -> tuple[str, str]:
    """Return name and version for logs: what the module says in its custom section, or else the name of its file."""
    if label is not None and label.name:
        return label.name, label.version
    if path is None:
        return "", ""
    file = os.fsencode(Path(path).name).decode("utf-8", "replace")
    suffix = next((ending for ending in _MODULES if file.endswith(ending) and file != ending), Path(file).suffix)
    return file.removesuffix(suffix), ""
