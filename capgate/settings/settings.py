"""What an application configures: from keyword arguments, or from ``CAPGATE_…`` variables of the environment.

The environment is read through :mod:`starlette.config`. A keyword argument wins over the variable of the same name,
which is then not looked at. Nothing is trimmed or guessed: an empty variable, a misspelled name, ``5`` for a flag are
errors, and no value of any setting means "unlimited" or "allow if in doubt".
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
import starlette.config

from ..artifact.bundle.bundle_keys import HIDDEN
from ..artifact.bundle.bundle_keys import VALID as VALID_BUNDLE_KEYS
from ..errors import ConfigError
from ..limits import RANGES, Limits
from ..model import Entrypoint, Environment
from ..store.public_keys import VALID
from .table import CHECKS, PARSERS, PREFIX, VARIABLES, limit_parser

__all__ = ["PREFIX", "VARIABLES", "Settings"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One gate's configuration. Every value is checked here, and a bad one raises :class:`ConfigError`.

    ``policy``           a policy document, or the path of a file that holds one; evaluated in Python
    ``artifact``         path of a Wasm module or an OPA bundle; at most one of ``policy`` and ``artifact`` is given,
                         and neither only where a checker is passed to the middleware
    ``artifact_sha256``  64 lower-case hex digits: the only module that is accepted
    ``engine``           ``auto`` (wasmer where it imports, else wasmtime), ``wasmer`` or ``wasmtime``
    ``pool_size``        instances per event loop, 1 to 1,024
    ``limits``           bounds on the module and on each call
    ``reuse``            the operator's word that a module which capgate did not build keeps no state between calls
    ``entrypoint``       of a module that OPA compiled: the rule to ask, as in ``opa build -e``, such as
                         ``orders/allow``; needed where it has several
    ``entrypoint_result``  what that rule gives: ``decision`` (a boolean, or ``{"allow": ..., "reason": ...}``) or
                         ``denials`` (a set or array of reasons, of which none allows)
    ``safe``             operations allowed without asking a policy: ``"action kind:id"``, or ``"action"``; exact
    ``cache_size``       decisions to remember, 0 (none) to 1,000,000; for policies that say which inputs they look at
    ``service, mode``    the environment that policies are told
    ``public``           routes that are open without asking: exact paths as declared, see :mod:`capgate.routes.routing`
    ``expose_reasons``   tell clients why they were denied
    ``openapi``          show in a FastAPI application's OpenAPI document what its routes declare
    ``sample_allows``    fraction of allows that become events, 0 to 1; denials always do
    ``body_bytes``       how much of a body is read where a declaration asks for its hash; more is denied
    ``strict``           refuse to start where a route is undeclared or cannot be resolved, instead of denying it only
    ``strict_paths``     deny paths with control characters, NUL, U+FFFD or surrogates
    ``contract``         path of a handler contract that routes, vocabulary and policy have to agree with at start-up
    ``trusted_keys``     public keys as lines of text, or the path of a file of them; with keys, an artifact that is not
                         signed by them, with its manifest beside it, is refused
    ``signature_threshold``  how many of the keys have to have signed, 1 to 32
    ``require_signature``    refuse to start without ``trusted_keys`` (or, for an artifact, ``bundle_keys``), so that
                         forgetting them is noticed. A store that is followed needs ``trusted_keys`` as well, unless
                         this is ``False`` in so many words: then whoever may write the store decides
    ``bundle_keys``      keys that verify OPA bundles, by id, see :mod:`capgate.artifact.bundle.bundle_keys`; or the path of a JSON or
                         TOML file of them. With these, whatever is not a bundle signed by one of them is refused
    ``bundle_scope``     the scope that bundles have to be signed for, in place of the one of the key
    ``policy_name``      the name that the manifest must give the policy; in a store, the name to follow
    ``store``            path of a policy store, in place of ``artifact``; what is active there under ``policy_name``
                         answers, unless ``artifact_sha256`` pins one version, by the digest of its module or of its
                         manifest. Without ``trusted_keys``, a pinned module is asked as these settings say, and not as
                         its manifest does
    ``store_poll``       seconds between two looks at the store, 0.05 to 3,600
    ``rollback_share``   fraction of faults among the first answers of a new policy at which it is rolled back: 0
                         (never), or 0.01 to 1
    ``keep_expired``     let a policy go on answering after it expired, which otherwise denies everything
    """

    policy: dict[str, Any] | str | os.PathLike[str] | None = None
    artifact: str | os.PathLike[str] | None = None
    artifact_sha256: str | None = None
    engine: str = "auto"
    pool_size: int = 8
    limits: Limits = msgspec.field(default_factory=Limits)
    reuse: bool = False
    entrypoint: str | None = None
    entrypoint_result: Literal["decision", "denials"] = "decision"
    safe: tuple[str, ...] = ()
    cache_size: int = 0
    service: str = "capgate"
    mode: str = "prod"
    public: tuple[str, ...] = ()
    expose_reasons: bool = False
    sample_allows: float = 0.0
    body_bytes: int = 1_048_576
    openapi: bool = True
    strict: bool = False
    strict_paths: bool = True
    contract: str | os.PathLike[str] | None = None
    trusted_keys: tuple[str, ...] | str | os.PathLike[str] | None = None
    signature_threshold: int = 1
    require_signature: bool | None = None
    bundle_keys: dict[str, Any] | str | os.PathLike[str] | None = None
    bundle_scope: str | None = None
    policy_name: str | None = None
    store: str | os.PathLike[str] | None = None
    store_poll: float = 1.0
    rollback_share: float = 0.5
    keep_expired: bool = False

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            check(name, getattr(self, name))
        given = [name for name in ("policy", "artifact", "store") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(given[-1], getattr(self, given[-1]), "only one of policy, artifact and store")
        if self.artifact_sha256 is not None and self.artifact is None and self.store is None:
            raise ConfigError("artifact_sha256", self.artifact_sha256, "a digest only together with artifact or store")
        if self.store is not None and self.policy_name is None:
            raise ConfigError("policy_name", None, "the name of a policy, together with store")
        self._check_entrypoint()
        self._check_trust()

    def _check_entrypoint(self) -> None:
        """A document has no entry points, and saying which of them to ask must not pass for having asked it."""
        if self.policy is None:
            return
        if self.entrypoint is not None:
            raise ConfigError("entrypoint", self.entrypoint, "only together with artifact or store")
        if self.entrypoint_result != "decision":
            raise ConfigError("entrypoint_result", self.entrypoint_result, "only together with artifact or store")

    @property
    def entry(self) -> Entrypoint:
        """``entrypoint`` and ``entrypoint_result``, as pools take them."""
        return Entrypoint(self.entrypoint, self.entrypoint_result)

    def _check_trust(self) -> None:
        """Half of a configuration of signatures is none, and must not pass for a whole one."""
        keys, threshold = self.trusted_keys, self.signature_threshold
        self._check_bundle_trust()
        if keys is None and self.require_signature and self.bundle_keys is None:
            raise ConfigError("trusted_keys", None, f"{VALID}, because require_signature is set")
        followed = self.store is not None and self.artifact_sha256 is None
        if keys is None and followed and self.require_signature is None:
            valid = f"{VALID}: without them whoever may write the store decides, which require_signature=False says"
            raise ConfigError("trusted_keys", None, valid)
        if keys is None and threshold != 1:
            raise ConfigError("signature_threshold", threshold, "only together with trusted_keys")
        if keys is None and self.policy_name is not None and self.store is None:
            raise ConfigError("policy_name", self.policy_name, "only together with trusted_keys or store")
        if keys is not None and self.artifact is None and self.store is None:
            raise ConfigError("trusted_keys", keys, "only together with artifact or store: a document is not signed")
        if isinstance(keys, tuple) and threshold > len(keys):
            raise ConfigError(
                "signature_threshold", threshold, f"at most {len(keys)}, as many as there are trusted_keys"
            )

    def _check_bundle_trust(self) -> None:
        keys = self.bundle_keys
        if keys is None and self.bundle_scope is not None:
            raise ConfigError("bundle_keys", None, f"{VALID_BUNDLE_KEYS}, because there is a bundle_scope")
        if keys is not None and self.artifact is None and self.store is None:
            raise ConfigError("bundle_keys", HIDDEN, "only together with artifact or store: a document is no bundle")
        if keys is not None and self.store is not None and self.trusted_keys is None:
            # The manifests of a store say which version is the newest, and which entry point is asked.
            raise ConfigError(
                "trusted_keys", None, f"{VALID}, because bundle_keys do not cover the manifests of a store"
            )

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What may be shown: everything but keys, of which some are secrets."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        if isinstance(self.bundle_keys, dict):
            shown["bundle_keys"] = dict.fromkeys(self.bundle_keys, HIDDEN)
        return list(shown.items())

    @property
    def environment(self) -> Environment:
        """``service`` and ``mode``, as policies see them."""
        return Environment(self.service, self.mode)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Settings from ``CAPGATE_<NAME>``, and ``CAPGATE_<LIMIT>`` for each limit, under ``overrides``.

        ``environ`` defaults to the environment of the process. Flags are ``true``, ``false``, ``1`` or ``0``;
        ``public`` is separated by commas; ``policy`` is a path. Raises :class:`ConfigError` naming the variable where
        one is at fault, also for a ``CAPGATE_…`` variable that does not exist.
        """
        environ = starlette.config.environ if environ is None else environ
        _refuse_unknown(overrides, cls.__struct_fields__)
        _refuse_unknown([name for name in environ if name.startswith(PREFIX)], VARIABLES)
        config = starlette.config.Config(environ=environ, env_prefix=PREFIX)
        values = _read(config, [name for name in PARSERS if name not in overrides])
        limits = {} if "limits" in overrides else _read(config, list(RANGES))
        try:
            if limits:
                values["limits"] = Limits(**limits)
            return cls(**values, **overrides)
        except ConfigError as error:
            if error.setting not in values and error.setting not in limits:
                raise
            variable = PREFIX + error.setting.upper()
            raise ConfigError(variable, HIDDEN if error.seen == HIDDEN else environ[variable], error.valid) from None


def _read(config: starlette.config.Config, names: Iterable[str]) -> dict[str, Any]:
    """The values of those variables that are set, parsed."""
    values = {}
    for name in names:
        variable = PREFIX + name.upper()
        if variable not in config.environ:
            continue
        parse, valid = PARSERS.get(name) or limit_parser(name)
        try:
            values[name] = config(name.upper(), parse)
        except ValueError:
            raise ConfigError(variable, config.environ[variable], valid) from None
    return values


def _refuse_unknown(given: Iterable[str], valid: Iterable[str]) -> None:
    valid = sorted(valid)
    for name in sorted(set(given) - set(valid)):
        close = difflib.get_close_matches(name, valid, 1)
        hint = f"{close[0]}, which is closest, or another" if close else "one"
        # What is wrong is the name. The value may be anybody's secret, and this goes to a log.
        raise ConfigError(name, name, f"{hint} of {', '.join(valid)}")
