"""Reads what an application configures, from keyword arguments or from ``CAPGATE_...`` variables of the environment.

The environment is read through :mod:`starlette.config`. A keyword argument wins over the variable of the same name,
which is then not looked at. Nothing is trimmed or guessed: an empty variable, a misspelled name, ``5`` for a flag are
errors. No value of any setting means "unlimited" or "allow if in doubt".
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime, time, timezone
from typing import Any, Final, Literal

import msgspec
import starlette.config

from ..artifact.bundle.bundle_keys import HIDDEN
from ..artifact.bundle.bundle_keys import VALID as VALID_BUNDLE_KEYS
from ..errors import ConfigError
from ..limits import Limits
from ..model import Entrypoint, Environment
from ..policy.rules import MODES
from ..spelling import ascii_lower
from ..store.public_keys import VALID
from .table import ALWAYS, BY_NAME, LIMITS, MONITOR, OF_CHECKER, PREFIX, SETTINGS, VARIABLES

__all__ = ["PREFIX", "VARIABLES", "Settings"]

#: What Kubernetes sets in each pod of a namespace with a service whose name begins with ``capgate``:
#: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK: Final = re.compile(
    rf"{PREFIX}(?:[A-Z0-9_]+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)",
    re.ASCII,
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One gate's configuration. Every value is checked here, and a bad one raises :class:`ConfigError`.

    :data:`~capgate.settings.table.SETTINGS` says what each of these means.
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
    require_facts: bool = False
    safe: tuple[str, ...] = ()
    cache_size: int | None = None
    service: str = "capgate"
    mode: str = "prod"
    public: tuple[str, ...] = ()
    unknown_routes: Literal["hide", "pass"] = "hide"
    enforce: Literal["always", "monitor"] = "always"
    enforce_from_env: bool = False
    enforce_after: date | None = None
    expose_reasons: bool = False
    www_authenticate: str | None = None
    sample_allows: float = 0.0
    log_facts: tuple[str, ...] = ()
    body_bytes: int = 1_048_576
    capabilities_end_with_request: bool = False
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
        public: object = self.public
        if isinstance(public, list):
            msgspec.structs.force_setattr(self, "public", tuple(public))
        for setting in SETTINGS:
            setting.check(setting.name, getattr(self, setting.name))
        given = [name for name in ("policy", "artifact", "store") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(given[-1], getattr(self, given[-1]), "only one of policy, artifact and store")
        if self.artifact_sha256 is not None and self.artifact is None and self.store is None:
            raise ConfigError("artifact_sha256", self.artifact_sha256, "a digest only together with artifact or store")
        if self.store is not None and self.policy_name is None:
            raise ConfigError("policy_name", None, "the name of a policy, together with store")
        if self.enforce_after is not None and self.enforce != MONITOR:
            raise ConfigError("enforce_after", self.enforce_after, f"a date only together with enforce={MONITOR!r}")
        if self.policy is None or isinstance(self.policy, dict):
            declared = () if self.policy is None else self.policy.get("modes", ())
            self.check_mode({*MODES, *(declared if isinstance(declared, (list, tuple)) else ())})
        self._check_entrypoint()
        self._check_trust()

    def check_mode(self, known: Collection[str]) -> None:
        """Raise :class:`ConfigError` where ``mode`` is another spelling of one of ``known``, and not one of them.

        A document in a file says which are known when it is read.
        """
        meant = _meant_mode(self.mode, [name for name in known if isinstance(name, str)])
        if meant is not None:
            raise ConfigError("mode", self.mode, BY_NAME["mode"].valid, nearest=meant)

    def _check_entrypoint(self) -> None:
        """Raise :class:`ConfigError` where a document is given an entry point.

        A document has none, and saying which of them to ask must not pass for having asked it.
        """
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
        """Raise :class:`ConfigError` for half of a configuration of signatures, which must not pass for a whole one."""
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
        """List what may be shown: everything but keys, of which some are secrets."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        if isinstance(self.bundle_keys, dict):
            shown["bundle_keys"] = dict.fromkeys(self.bundle_keys, HIDDEN)
        return list(shown.items())

    def about_checker(self) -> tuple[str, ...]:
        """Return the names of the settings that say who answers, as far as they are not as they are by default."""
        defaults = Settings()
        return tuple(name for name in OF_CHECKER if getattr(self, name) != getattr(defaults, name))

    def without_checker(self) -> Settings:
        """Return these settings for a gate that is given its checker."""
        defaults = Settings()
        return msgspec.structs.replace(self, **{name: getattr(defaults, name) for name in OF_CHECKER})

    @property
    def monitors(self) -> bool:
        """Whether denials do not count, until :attr:`enforced_from`."""
        return self.enforce == MONITOR

    @property
    def enforced_from(self) -> float | None:
        """When denials begin to count, in seconds since the epoch; ``None`` where no date is named."""
        given = self.enforce_after
        if given is None:
            return None
        moment = given if isinstance(given, datetime) else datetime.combine(given, time(), timezone.utc)
        return moment.timestamp()

    @property
    def environment(self) -> Environment:
        """``service`` and ``mode``, as policies see them."""
        return Environment(self.service, self.mode)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | starlette.config.Config | None = None, **overrides: Any) -> Settings:
        """Read settings from ``CAPGATE_<NAME>``, and ``CAPGATE_<LIMIT>`` for each limit, under ``overrides``.

        ``environ`` defaults to the environment of the process. With a ``Config(".env")`` of Starlette's, variables that
        the environment does not have are read from that file; its ``env_prefix`` is to be empty.

        Flags are ``true``, ``false``, ``1`` or ``0``; ``public`` is separated by commas; ``policy`` is a path. Raises
        :class:`ConfigError` naming the variable where one is at fault, also for a ``CAPGATE_...`` variable that does
        not exist. Those that Kubernetes sets for a service named ``capgate``, such as ``CAPGATE_SERVICE_HOST``, are
        none of ours.
        """
        _reject_unknown(overrides, cls.__struct_fields__)
        config = _config(environ)
        ours = [
            name for name in _names(config) if _meant(name).startswith(PREFIX) and not _SERVICE_LINK.fullmatch(name)
        ]
        _reject_unknown(ours, VARIABLES)
        names = [setting.name for setting in SETTINGS if setting.name in BY_NAME]
        values = _read(config, [name for name in names if name not in overrides])
        limits = {} if "limits" in overrides else _read(config, [limit.name for limit in LIMITS])
        if values.get("enforce") == MONITOR and overrides.get("enforce_from_env") is not True:
            valid = f"{ALWAYS}; {MONITOR} only where the code says Settings.from_env(enforce_from_env=True)"
            raise ConfigError(BY_NAME["enforce"].variable, MONITOR, valid)
        try:
            if limits:
                values["limits"] = Limits(**limits)
            return cls(**values, **overrides)
        except ConfigError as error:
            if error.setting not in values and error.setting not in limits:
                raise
            seen = HIDDEN if error.seen == HIDDEN else config(error.setting.upper())
            near = None if seen == HIDDEN else error.nearest
            raise ConfigError(BY_NAME[error.setting].variable, seen, error.valid, nearest=near) from None


def _meant_mode(mode: str, known: Iterable[str]) -> str | None:
    """Return the one of ``known`` that ``mode`` is but for its case, blanks, quotes, or a comment behind it.

    Returns ``None`` where ``mode`` is known, or like none. No rule about the known mode matches in the other one.
    """
    known = sorted(known)
    bare = ascii_lower(mode.partition("#")[0].strip().strip("'\""))
    return None if mode in known else next((name for name in known if ascii_lower(name) == bare), None)


def _config(given: Mapping[str, str] | starlette.config.Config | None) -> starlette.config.Config:
    """Return what reads our variables from ``given``. Raises :class:`ConfigError` for a reader of other variables."""
    if not isinstance(given, starlette.config.Config):
        environ = starlette.config.environ if given is None else given
        return starlette.config.Config(environ=environ, env_prefix=PREFIX)
    if given.env_prefix:
        raise ConfigError("environ", f"a Config with env_prefix={given.env_prefix!r}", "a Config without env_prefix")
    config = starlette.config.Config(environ=given.environ, env_prefix=PREFIX)
    config.file_values = given.file_values
    return config


def _names(config: starlette.config.Config) -> Iterable[str]:
    return {*config.environ, *config.file_values}


def _meant(name: str) -> str:
    """Return the variable that ``name`` stands for, where a file was written for a shell, or in small letters."""
    return name.removeprefix("export ").strip().upper()


def _read(config: starlette.config.Config, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of those settings whose variables are set."""
    rows, given = [BY_NAME[name] for name in names], _names(config)
    return {row.name: row.parsed(config(row.name.upper())) for row in rows if row.variable in given}


def _reject_unknown(given: Iterable[str], valid: Iterable[str]) -> None:
    valid = sorted(valid)
    for name in sorted(set(given) - set(valid)):
        close = difflib.get_close_matches(name, valid, 1) or difflib.get_close_matches(_meant(name), valid, 1)
        hint = f"{close[0]}, which is closest, or another" if close else "one"
        # What is wrong is the name. The value may be anybody's secret, and this goes to a log.
        nearest = close[0] if close else None
        raise ConfigError(name, name, f"{hint} of {', '.join(valid)}", nearest=nearest)


# Put where an editor or help() looks for it, because the table is the only place that says it.
Settings.__doc__ = f"{Settings.__doc__}\n" + "\n".join(f"    ``{row.name}``  {row.help}" for row in SETTINGS)
