"""What each setting may be: how its environment variable is read, and how its value is checked.

Nothing is trimmed or guessed, and no value of any setting means "unlimited" or "allow if in doubt".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final

from ..artifact.bundle.bundle_keys import HIDDEN, are_themselves, parse_bundle_keys
from ..artifact.bundle.bundle_keys import VALID as VALID_BUNDLE_KEYS
from ..errors import ConfigError
from ..limits import BODY_BYTES, FRACTIONS, MOST_KEYS, RANGES, STORE_POLL, Limits, check_number
from ..store.public_keys import ALGORITHM, VALID, parse_keys

PREFIX: Final = "CAPGATE_"
ENGINES: Final = ("auto", "wasmer", "wasmtime")
#: Lowest and highest number of instances in a pool, and of decisions that are remembered.
POOL_SIZE: Final = (1, 1_024)
CACHE_SIZE: Final = (0, 1_000_000)

#: What an entry point of a module that OPA compiled can give, see :class:`~capgate.model.Entrypoint`.
RESULTS: Final = ("decision", "denials")
ENTRYPOINT: Final = "the path of a rule, as given to opa build, such as 'orders/allow'"

_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
_SAFE: Final = "operations as they are asked, such as 'env.read env_var:TZ'"
_PUBLIC: Final = "exact route paths as declared, such as '/health' or '/files/{path:path}'; no wildcards"


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
PARSERS: Final[dict[str, _Parser]] = {
    "policy": (_text, "the path of a policy document"),
    "artifact": (_text, "the path of a Wasm module, or of an OPA bundle"),
    "artifact_sha256": (_text, "64 lower-case hex digits"),
    "engine": (_text, f"one of {', '.join(ENGINES)}"),
    "pool_size": (_whole, "a whole number from {} to {}".format(*POOL_SIZE)),
    "reuse": (_flag, "true, false, 1 or 0"),
    "entrypoint": (_text, ENTRYPOINT),
    "entrypoint_result": (_text, f"one of {', '.join(RESULTS)}"),
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
    "bundle_keys": (_text, "the path of a JSON or TOML file of keys that verify bundles"),
    "bundle_scope": (_text, "printable text of 1 to 256 characters"),
    "policy_name": (_text, "the name of a policy: 1 to 64 letters, digits, dots, underscores, plus and minus signs"),
    "store": (_text, "the path of a policy store"),
    "store_poll": (_number, "a number from {:g} to {:g}".format(*STORE_POLL)),
    "rollback_share": (_number, "0, or a number from 0.01 to 1"),
    "keep_expired": (_flag, "true, false, 1 or 0"),
}
#: Every variable that :meth:`Settings.from_env` knows.
VARIABLES: Final = tuple(PREFIX + name.upper() for name in (*PARSERS, *RANGES))


def limit_parser(name: str) -> _Parser:
    kind, parse = ("a number", _number) if name in FRACTIONS else ("a whole number", _whole)
    low, high = RANGES[name]
    return parse, f"{kind} from {low:g} to {high:g}"


# -- value to verdict


def _check_path(name: str, value: object) -> None:
    if value is None or (isinstance(value, dict) and name == "policy"):
        return
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(name, value, PARSERS[name][1] + (", or the document as a dict" if name == "policy" else ""))


def _check_digest(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and _DIGEST.fullmatch(value)):
        raise ConfigError(name, value, "64 lower-case hex digits")


def _check_engine(name: str, value: object) -> None:
    if value not in ENGINES:
        raise ConfigError(name, value, PARSERS[name][1])


def _check_entrypoint(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and 1 <= len(value) <= 1024 and value.isprintable()):
        raise ConfigError(name, value, ENTRYPOINT)


def _check_result(name: str, value: object) -> None:
    if value not in RESULTS or not isinstance(value, str):
        raise ConfigError(name, value, PARSERS[name][1])


def _check_limits(name: str, value: object) -> None:
    if not isinstance(value, Limits):
        raise ConfigError(name, value, "a capgate.Limits")


def _check_choice(name: str, value: object) -> None:
    if value is not None:
        _check_flag(name, value)


def _check_flag(name: str, value: object) -> None:
    if value is not True and value is not False:
        raise ConfigError(name, value, "True or False")


def _check_label(name: str, value: object) -> None:
    if not (isinstance(value, str) and 1 <= len(value) <= 256 and value.isprintable()):
        raise ConfigError(name, value, PARSERS[name][1])


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


def _check_bundle_keys(name: str, value: object) -> None:
    if isinstance(value, dict):
        parse_bundle_keys(value, name)
    elif value is not None and not isinstance(value, (str, os.PathLike)):
        raise ConfigError(name, value, VALID_BUNDLE_KEYS)
    elif value is not None and are_themselves(os.fsdecode(value)):
        raise ConfigError(name, HIDDEN, VALID_BUNDLE_KEYS)
    else:
        _check_path(name, value)


def _check_name(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise ConfigError(name, value, PARSERS[name][1])


def _check_share(name: str, value: Any) -> None:
    check_number(name, value, 0.0, 1.0, whole=False)
    if 0 < value < 0.01:
        raise ConfigError(name, value, PARSERS[name][1])


CHECKS: Final[dict[str, Callable[[str, Any], None]]] = {
    "policy": _check_path,
    "artifact": _check_path,
    "artifact_sha256": _check_digest,
    "engine": _check_engine,
    "pool_size": lambda name, value: check_number(name, value, *POOL_SIZE, whole=True),
    "limits": _check_limits,
    "reuse": _check_flag,
    "entrypoint": _check_entrypoint,
    "entrypoint_result": _check_result,
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
    "require_signature": _check_choice,
    "bundle_keys": _check_bundle_keys,
    "bundle_scope": lambda name, value: None if value is None else _check_label(name, value),
    "policy_name": _check_name,
    "store": _check_path,
    "store_poll": lambda name, value: check_number(name, value, *STORE_POLL, whole=False),
    "rollback_share": _check_share,
    "keep_expired": _check_flag,
}
