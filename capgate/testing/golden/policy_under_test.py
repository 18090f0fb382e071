"""Holds the policy that fixtures are judged by, whichever way it is given, and names the runtimes that can judge it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import Any, Final, Union

from ...artifact.build import build_policy
from ...artifact.load import OPA, WasmArtifact, artifact_of, document_format, is_module, read_bytes
from ...errors import ConfigError
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Entrypoint
from ...policy import RuntimePolicy
from ...runtime.engine import ENGINES, available_engines, load_engine

LOCAL: Final = "local"
RUNTIMES: Final = (LOCAL, *ENGINES)
ALL: Final = "all"

#: A policy, as a document or as a module; a path leads to either.
PolicyLike = Union["PolicyUnderTest", RuntimePolicy, WasmArtifact, dict[str, Any], str, "os.PathLike[str]"]


class PolicyUnderTest:
    """A policy that is to answer fixtures. ``document`` is ``None`` for a module, ``artifact`` what engines run;
    ``entrypoint`` is for a module that OPA compiled.

    Raises :class:`ConfigError` for a bad document, :class:`ArtifactError` or :class:`WasmError` for a module or file
    that cannot be used.
    """

    def __init__(
        self,
        policy: RuntimePolicy | WasmArtifact | dict[str, Any],
        limits: Limits | None = None,
        entrypoint: Entrypoint = ONLY_ENTRYPOINT,
    ) -> None:
        module = policy if isinstance(policy, WasmArtifact) else None
        is_rego, is_built = module is not None and module.abi == OPA, module is None or module.is_built
        self.entrypoint = entrypoint
        self.document = RuntimePolicy.from_document(policy) if isinstance(policy, dict) else None
        if isinstance(policy, RuntimePolicy):
            self.document = policy
        looked_at = (self.document or policy).inputs or ()  # type: ignore[union-attr]  # a document is none by now
        self.limits = (limits or Limits()).resolved(rego=is_rego, built=is_built, facts="facts" in looked_at)
        self._module = module
        about = self.document or self.artifact
        self.name, self.version, self.sha256 = about.name, about.version, about.sha256
        self.path = None if self._module is None else self._module.path

    @classmethod
    def load(
        cls, policy: PolicyLike, limits: Limits | None = None, entrypoint: Entrypoint = ONLY_ENTRYPOINT
    ) -> PolicyUnderTest:
        """Return ``policy``; if it is a path, the module or the document there, whichever the file is."""
        if isinstance(policy, PolicyUnderTest):
            return policy
        if isinstance(policy, (RuntimePolicy, WasmArtifact, dict)):
            return cls(policy, limits, entrypoint)
        data, path = read_bytes(policy, (limits or Limits()).module_bytes), os.fsdecode(policy)
        if not is_module(data, path):
            document = RuntimePolicy.from_document(data, format=document_format(path), path=path)
            loaded = cls(document, limits, entrypoint)
            loaded.path = path
            return loaded
        return cls(artifact_of(data, path, None, limits or Limits()), limits, entrypoint)

    @functools.cached_property
    def artifact(self) -> WasmArtifact:
        """The module; of a document, the one that it builds into."""
        if self._module is not None:
            return self._module
        if self.document is None:
            raise TypeError("neither a document nor a module")
        room = max(self.limits.input_bytes, Limits().input_bytes)
        return WasmArtifact.from_bytes(build_policy(self.document, input_bytes=room), limits=self.limits)

    def runtimes(self, engines: str | Iterable[str] = ALL) -> tuple[str, ...]:
        """Return the runtimes that ``engines`` means for this policy.

        They are names of :data:`RUNTIMES`, ``"auto"`` for the engine that applications take, or ``"all"`` for every one
        that is here.

        Raises :class:`ConfigError` for another name, or where only a document can be judged so;
        :class:`EngineUnavailable` for an engine that does not import, or where none does.
        """
        meant: list[str] = []
        for name in (engines,) if isinstance(engines, str) else engines:
            if name == ALL:
                meant += [*((LOCAL,) if self.document else ()), *(available_engines() or (load_engine().name,))]
            elif name == LOCAL and self.document is None:
                raise ConfigError("engine", name, "an engine for a module, which only an engine can run")
            elif name == LOCAL:
                meant.append(name)
            elif type(name) is str and name in ("auto", *ENGINES):
                meant.append(load_engine(name).name)
            else:
                raise ConfigError("engine", name, ", ".join((ALL, "auto", *RUNTIMES)))
        if not meant:
            raise ConfigError("engine", (), "one or more of " + ", ".join((ALL, "auto", *RUNTIMES)))
        return tuple(name for name in RUNTIMES if name in meant)
