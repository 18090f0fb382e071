"""What an application configures: from keyword arguments, or from ``CAPGATE_…`` variables of the environment.

The environment is read through :mod:`starlette.config`. A keyword argument wins over the variable of the same name,
which is then not looked at. Nothing is trimmed or guessed: an empty variable, a misspelled name, ``5`` for a flag are
errors, and no value of any setting means "unlimited" or "allow if in doubt".
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
import starlette.config

from .errors import ConfigError
from .keys import ALGORITHM, MOST_KEYS, VALID, parse_keys
from .limits import FRACTIONS, RANGES, Limits, check_number
from .model import Environment

PREFIX: Final = "CAPGATE_"
ENGINES: Final = ("auto", "wasmer", "wasmtime")
#: Lowest and highest number of instances in a pool, and of bytes of a body that is read for its hash.
POOL_SIZE: Final = (1, 1_024)
BODY_BYTES: Final = (0, 1_073_741_824)
CACHE_SIZE: Final = (0, 1_000_000)

_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
_SAFE: Final = "operations as they are asked, such as 'env.read env_var:TZ'"
_PUBLIC: Final = "exact route paths as declared, such as '/health' or '/files/{path:path}'; no wildcards"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One gate's configuration. Every value is checked here, and a bad one raises :class:`ConfigError`.

    ``policy``           a policy document, or the path of a file that holds one; evaluated in Python
    ``artifact``         path of a Wasm module; at most one of ``policy`` and ``artifact`` is given, and neither only
                         where a checker is passed to the middleware
    ``artifact_sha256``  64 lower-case hex digits: the only module that is accepted
    ``engine``           ``auto`` (wasmer where it imports, else wasmtime), ``wasmer`` or ``wasmtime``
    ``pool_size``        instances per event loop, 1 to 1,024
    ``limits``           bounds on the module and on each call
    ``reuse``            the operator's word that a module which capgate did not build keeps no state between calls
    ``safe``             operations allowed without asking a policy: ``"action kind:id"``, or ``"action"``; exact
    ``cache_size``       decisions to remember, 0 (none) to 1,000,000; for policies that say which inputs they look at
    ``service, mode``    the environment that policies are told
    ``public``           routes that are open without asking: exact paths as declared, see :mod:`capgate.routing`
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
    ``require_signature``    refuse to start without ``trusted_keys``, so that forgetting them is noticed
    ``policy_name``      the name that the manifest must give the policy
    """

    policy: dict[str, Any] | str | os.PathLike[str] | None = None
    artifact: str | os.PathLike[str] | None = None
    artifact_sha256: str | None = None
    engine: str = "auto"
    pool_size: int = 8
    limits: Limits = msgspec.field(default_factory=Limits)
    reuse: bool = False
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
    require_signature: bool = False
    policy_name: str | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            check(name, getattr(self, name))
        if self.policy is not None and self.artifact is not None:
            raise ConfigError("artifact", self.artifact, "either policy or artifact, not both")
        if self.artifact_sha256 is not None and self.artifact is None:
            raise ConfigError("artifact_sha256", self.artifact_sha256, "a digest only together with artifact")
        self._check_trust()

    def _check_trust(self) -> None:
        """Half of a configuration of signatures is none, and must not pass for a whole one."""
        keys, threshold = self.trusted_keys, self.signature_threshold
        if keys is None and self.require_signature:
            raise ConfigError("trusted_keys", None, f"{VALID}, because require_signature is set")
        if keys is None and threshold != 1:
            raise ConfigError("signature_threshold", threshold, "only together with trusted_keys")
        if keys is None and self.policy_name is not None:
            raise ConfigError("policy_name", self.policy_name, "only together with trusted_keys")
        if keys is not None and self.artifact is None:
            raise ConfigError("trusted_keys", keys, "only together with artifact: a document is not signed")
        if isinstance(keys, tuple) and threshold > len(keys):
            raise ConfigError(
                "signature_threshold", threshold, f"at most {len(keys)}, as many as there are trusted_keys"
            )

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
        values = _read(config, [name for name in _PARSERS if name not in overrides])
        limits = {} if "limits" in overrides else _read(config, list(RANGES))
        try:
            if limits:
                values["limits"] = Limits(**limits)
            return cls(**values, **overrides)
        except ConfigError as error:
            if error.setting not in values and error.setting not in limits:
                raise
            variable = PREFIX + error.setting.upper()
            raise ConfigError(variable, environ[variable], error.valid) from None


def _read(config: starlette.config.Config, names: Iterable[str]) -> dict[str, Any]:
    """The values of those variables that are set, parsed."""
    values = {}
    for name in names:
        variable = PREFIX + name.upper()
        if variable not in config.environ:
            continue
        parse, valid = _PARSERS.get(name) or _limit_parser(name)
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


# -- text to value


def _text(value: str) -> str:
    if not value:
        raise ValueError("empty")
    return value


def _whole(value: str) -> int:
    if re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII) is None:
        raise ValueError(value)
    return int(value)


def _number(value: str) -> float:
    if re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", value, re.ASCII) is None:
        raise ValueError(value)
    return float(value)


def _flag(value: str) -> bool:
    if value not in _FLAGS:
        raise ValueError(value)
    return _FLAGS[value]


def _list(value: str) -> tuple[str, ...]:
    return tuple(_text(part.strip()) for part in value.split(","))


def parse_trusted(value: str) -> tuple[str, ...] | str:
    """``trusted_keys`` as an environment variable has them: lines with commas between them, or a path."""
    return _list(value) if value.startswith(ALGORITHM) else _text(value)


_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}
_Parser = tuple[Callable[[str], Any], str]
_PARSERS: Final[dict[str, _Parser]] = {
    "policy": (_text, "the path of a policy document"),
    "artifact": (_text, "the path of a Wasm module"),
    "artifact_sha256": (_text, "64 lower-case hex digits"),
    "engine": (_text, f"one of {', '.join(ENGINES)}"),
    "pool_size": (_whole, "a whole number from {} to {}".format(*POOL_SIZE)),
    "reuse": (_flag, "true, false, 1 or 0"),
    "safe": (_list, f"{_SAFE}; separated by commas"),
    "cache_size": (_whole, "a whole number from {} to {}".format(*CACHE_SIZE)),
    "service": (_text, "printable text of 1 to 256 characters"),
    "mode": (_text, "dev, test, prod, or another name of 1 to 256 printable characters"),
    "public": (_list, f"{_PUBLIC}; separated by commas"),
    "expose_reasons": (_flag, "true, false, 1 or 0"),
    "sample_allows": (_number, "a number from 0 to 1"),
    "body_bytes": (_whole, "a whole number from {} to {}".format(*BODY_BYTES)),
    "openapi": (_flag, "true, false, 1 or 0"),
    "strict": (_flag, "true, false, 1 or 0"),
    "strict_paths": (_flag, "true, false, 1 or 0"),
    "contract": (_text, "the path of a handler contract, as capgate contract export writes it"),
    "trusted_keys": (parse_trusted, f"{VALID}, commas between them; or the path of a file of them"),
    "signature_threshold": (_whole, f"a whole number from 1 to {MOST_KEYS}"),
    "require_signature": (_flag, "true, false, 1 or 0"),
    "policy_name": (_text, "the name of a policy: 1 to 64 letters, digits, dots, underscores, plus and minus signs"),
}
#: Every variable that :meth:`Settings.from_env` knows.
VARIABLES: Final = tuple(PREFIX + name.upper() for name in (*_PARSERS, *RANGES))


def _limit_parser(name: str) -> _Parser:
    kind, parse = ("a number", _number) if name in FRACTIONS else ("a whole number", _whole)
    low, high = RANGES[name]
    return parse, f"{kind} from {low:g} to {high:g}"


# -- value to verdict


def _check_path(name: str, value: object) -> None:
    if value is None or (isinstance(value, dict) and name == "policy"):
        return
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(name, value, _PARSERS[name][1] + (", or the document as a dict" if name == "policy" else ""))


def _check_digest(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and _DIGEST.fullmatch(value)):
        raise ConfigError(name, value, "64 lower-case hex digits")


def _check_engine(name: str, value: object) -> None:
    if value not in ENGINES:
        raise ConfigError(name, value, _PARSERS[name][1])


def _check_limits(name: str, value: object) -> None:
    if not isinstance(value, Limits):
        raise ConfigError(name, value, "a capgate.Limits")


def _check_flag(name: str, value: object) -> None:
    if value is not True and value is not False:
        raise ConfigError(name, value, "True or False")


def _check_label(name: str, value: object) -> None:
    if not (isinstance(value, str) and 1 <= len(value) <= 256 and value.isprintable()):
        raise ConfigError(name, value, _PARSERS[name][1])


def _check_public(name: str, value: object) -> None:
    if not isinstance(value, tuple):
        raise ConfigError(name, value, f"a tuple of {_PUBLIC}")
    for path in value:
        if (
            not isinstance(path, str)
            or "/" not in path
            or "*" in path
            or not path.isprintable()
            or value.count(path) > 1
        ):
            raise ConfigError(name, path, f"{_PUBLIC}; each of them once")


def _check_safe(name: str, value: object) -> None:
    if not isinstance(value, tuple):
        raise ConfigError(name, value, f"a tuple of {_SAFE}")
    for text in value:
        if not isinstance(text, str) or not text.isprintable() or not text.strip() or value.count(text) > 1:
            raise ConfigError(name, text, f"{_SAFE}; each of them once")


def _check_keys(name: str, value: object) -> None:
    if isinstance(value, tuple):
        parse_keys(value, name)
    elif isinstance(value, str) and value.startswith(ALGORITHM):
        raise ConfigError(name, value, f"a tuple of {VALID}, even of one; or the path of a file of them")
    else:
        _check_path(name, value)


def _check_name(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise ConfigError(name, value, _PARSERS[name][1])


_CHECKS: Final[dict[str, Callable[[str, Any], None]]] = {
    "policy": _check_path,
    "artifact": _check_path,
    "artifact_sha256": _check_digest,
    "engine": _check_engine,
    "pool_size": lambda name, value: check_number(name, value, *POOL_SIZE, whole=True),
    "limits": _check_limits,
    "reuse": _check_flag,
    "safe": _check_safe,
    "cache_size": lambda name, value: check_number(name, value, *CACHE_SIZE, whole=True),
    "service": _check_label,
    "mode": _check_label,
    "public": _check_public,
    "expose_reasons": _check_flag,
    "sample_allows": lambda name, value: check_number(name, value, 0.0, 1.0, whole=False),
    "body_bytes": lambda name, value: check_number(name, value, *BODY_BYTES, whole=True),
    "openapi": _check_flag,
    "strict": _check_flag,
    "strict_paths": _check_flag,
    "contract": _check_path,
    "trusted_keys": _check_keys,
    "signature_threshold": lambda name, value: check_number(name, value, 1, MOST_KEYS, whole=True),
    "require_signature": _check_flag,
    "policy_name": _check_name,
}
