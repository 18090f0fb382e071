"""Holds the settings as one table: each with how its variable is read, how its value is checked, and what it means.

The table of ``docs/reference/settings.md`` is made from it by ``tests/settings/readme_table.py``. Nothing is trimmed or
guessed, and no value of any setting means "unlimited" or "allow if in doubt".
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any, Final, NamedTuple

from ..artifact.bundle.bundle_keys import HIDDEN, are_themselves, parse_bundle_keys
from ..artifact.bundle.bundle_keys import VALID as VALID_BUNDLE_KEYS
from ..checker.cached import LARGEST, USUAL
from ..errors import ConfigError
from ..limits import (
    BODY_BYTES,
    BY_MODULE,
    DIGEST,
    FRACTIONS,
    MOST_KEYS,
    RANGES,
    STORE_POLL,
    Limits,
    check_number,
    is_digest,
    number_between,
)
from ..logged_facts import LISTED_LIMIT, field_of, is_fact_name, nearest_fact_name
from ..logged_facts import VALID as VALID_FACTS
from ..store.public_keys import ALGORITHM, VALID, parse_keys

PREFIX: Final = "CAPGATE_"
#: Whether denials count: always, or (monitor) not until ``enforce_after``.
ALWAYS: Final = "always"
MONITOR: Final = "monitor"
#: What strangers are told of paths that no route answers: nothing, or what the application says of them.
HIDE: Final = "hide"
PASS: Final = "pass"  # noqa: S105  # no password

_ENGINES: Final = ("auto", "wasmer", "wasmtime")
#: What an entry point of a module that OPA compiled can give, see :class:`~capgate.model.Entrypoint`.
_RESULTS: Final = ("decision", "denials")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}
_FACTS: Final = f"names of facts: {VALID_FACTS}"
_SAFE: Final = "operations as they are asked, such as 'env.read env_var:TZ'"
#: A list of challenges, by RFC 9110, section 11.6.1: each a scheme, perhaps with a token or with parameters.
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = rf'{_WORD} ?= ?(?:{_WORD}|"(?:[ !#-\[\]-~]|\\[ -~])*")'
_CHALLENGE: Final = rf"{_WORD}(?: (?:{_PARAMETER}(?: ?, ?{_PARAMETER})*|[0-9A-Za-z._~+/-]+=*))?"
_CHALLENGES: Final = re.compile(rf"{_CHALLENGE}(?: ?, ?{_CHALLENGE})*", re.ASCII)
#: A method before the path, as logs have it.
_METHOD: Final = re.compile(r"[A-Za-z]+ +(?=/)")
#: Signs of a list in another notation, or of paths without a comma between them.
_OTHER_LIST: Final = re.compile(r"""[\s"'\[]|.*(?:[\s"'\]]\Z|\s/)""", re.DOTALL)
_PUBLIC: Final = "exact route paths as declared, such as '/health', '/items/{id}' or '/static' of a mount; no wildcards"


class Setting(NamedTuple):
    """A row of the table.

    ``parse`` makes a value of the text of an environment variable, or raises ``ValueError``. ``valid`` says what text
    it takes. ``check`` raises :class:`ConfigError` for a value that cannot be used; it is given the name as well.
    ``help`` says what the setting means, as the reference shows it. One that has to stand ``in_code`` has no variable.
    """

    name: str
    help: str
    parse: Callable[[str], Any]
    valid: str
    check: Callable[[str, Any], None]
    in_code: bool = False

    @property
    def variable(self) -> str:
        """The environment variable of this setting."""
        return PREFIX + self.name.upper()

    def parsed(self, text: str) -> Any:
        """Return the value that the variable has with this ``text``. Raises :class:`ConfigError`, which names it."""
        try:
            return self.parse(text)
        except ValueError:
            raise ConfigError(self.variable, text, self.valid) from None


# -- from text to values


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


def _date(value: str) -> date:
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value, re.ASCII) is None:
        raise ValueError(value)
    return date.fromisoformat(value)


def _list(value: str) -> tuple[str, ...]:
    return tuple(_text(part.strip()) for part in value.split(","))


def parse_trusted_keys(value: str) -> tuple[str, ...] | str:
    """Return ``trusted_keys`` as an environment variable has them: lines with commas between them, or a path."""
    return _list(value) if value.startswith(ALGORITHM) else _text(value)


# -- checks of values


def _is_flag(value: object) -> bool:
    return value is True or value is False


def _is_label(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 256 and value.isprintable()


def _is_path(value: object) -> bool:
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    return isinstance(path, str) and path != "" and "\0" not in path


def _check_limits(name: str, value: object) -> None:
    if not isinstance(value, Limits):
        raise ConfigError(name, value, "a capgate.Limits")


def _check_public(name: str, value: object) -> None:
    if not isinstance(value, tuple):
        raise ConfigError(name, value, f"a tuple of {_PUBLIC}")
    for path in value:
        if isinstance(path, str) and (method := _METHOD.match(path)):
            raise ConfigError(name, path, f"{_PUBLIC}, without a method", nearest=path[method.end() :])
        if isinstance(path, str) and _OTHER_LIST.match(path):
            near = path.strip(" \t\n\"'[]")
            raise ConfigError(name, path, _PUBLIC, nearest=None if " " in near or not near else near)
        is_path = isinstance(path, str) and "/" in path and "*" not in path and path.isprintable()
        if not is_path or value.count(path) > 1:
            raise ConfigError(name, path, f"{_PUBLIC}; each of them once")


def _check_safe(name: str, value: object) -> None:
    if not isinstance(value, tuple):
        raise ConfigError(name, value, f"a tuple of {_SAFE}")
    for text in value:
        if not isinstance(text, str) or not text.isprintable() or not text.strip() or value.count(text) > 1:
            raise ConfigError(name, text, f"{_SAFE}; each of them once")


def _check_log_facts(name: str, value: object) -> None:
    if not isinstance(value, tuple):
        raise ConfigError(name, value, f"a tuple of {_FACTS}")
    for fact in value:
        if (field := field_of(fact)) is not None:
            raise ConfigError(name, fact, f"{_FACTS}; every event has this one as {field!r}")
        if not is_fact_name(fact) or value.count(fact) > 1:
            raise ConfigError(name, fact, f"{_FACTS}; each of them once", nearest=nearest_fact_name(fact))
    if len(value) > LISTED_LIMIT:
        raise ConfigError(name, value[LISTED_LIMIT], f"at most {LISTED_LIMIT} names of facts")


def _check_trusted_keys(name: str, value: object) -> None:
    if isinstance(value, tuple):
        parse_keys(value, name)
    elif isinstance(value, str) and value.startswith(ALGORITHM):
        raise ConfigError(name, value, f"a tuple of {VALID}, even of one; or the path of a file of them")
    elif value is not None and not _is_path(value):
        raise ConfigError(name, value, _TRUSTED_KEYS)


def _check_bundle_keys(name: str, value: object) -> None:
    if isinstance(value, dict):
        parse_bundle_keys(value, name)
    elif value is not None and not isinstance(value, (str, os.PathLike)):
        raise ConfigError(name, value, VALID_BUNDLE_KEYS)
    elif value is not None and are_themselves(os.fsdecode(value)):
        raise ConfigError(name, HIDDEN, VALID_BUNDLE_KEYS)
    elif value is not None and not _is_path(value):
        raise ConfigError(name, value, _BUNDLE_KEYS)


def _check_date(name: str, value: object) -> None:
    is_date = isinstance(value, date) and (not isinstance(value, datetime) or value.tzinfo is not None)
    if value is not None and not is_date:
        raise ConfigError(name, value, f"a datetime.date, or a datetime.datetime with a time zone: {_DATE}")


def _check_share(name: str, value: Any) -> None:
    check_number(name, value, 0.0, 1.0, whole=False)
    if 0 < value < 0.01:
        raise ConfigError(name, value, _SHARE)


# -- rows by the form of their values


def _row(
    name: str, valid: str, help: str, holds: Callable[[object], bool], *, or_none: bool = True, value: str = ""
) -> Setting:
    """Return the row of a setting that is text. ``value`` is what a value has to be, where that is not ``valid``."""

    def check(name: str, given: object) -> None:
        if not (or_none and given is None) and not holds(given):
            raise ConfigError(name, given, value or valid)

    return Setting(name, help, _text, valid, check)


def _path_row(name: str, valid: str, help: str) -> Setting:
    return _row(name, valid, help, _is_path)


def _flag_row(name: str, help: str, *, or_none: bool = False) -> Setting:
    row = _row(name, "true, false, 1 or 0", help, _is_flag, or_none=or_none, value="True or False")
    return row._replace(parse=_flag)


def _choice_row(name: str, choices: tuple[str, ...], help: str) -> Setting:
    def check(name: str, given: object) -> None:
        if not isinstance(given, str) or given not in choices:
            close = difflib.get_close_matches(given.lower(), choices, 1) if isinstance(given, str) else []
            raise ConfigError(name, given, f"{close[0]}, which is closest; {valid}" if close else valid)

    valid = f"one of {', '.join(choices)}"
    return Setting(name, help, _text, valid, check)


def _number_row(name: str, low: float, high: float, help: str, *, whole: bool = True, or_none: bool = False) -> Setting:
    def check(name: str, given: object) -> None:
        if not (or_none and given is None):
            check_number(name, given, low, high, whole=whole)

    return Setting(name, help, _whole if whole else _number, number_between(low, high, whole=whole), check)


def _limit_row(name: str, help: str) -> Setting:
    low, high = RANGES[name]
    return _number_row(name, low, high, help, whole=name not in FRACTIONS, or_none=name in BY_MODULE)


_TRUSTED_KEYS: Final = f"{VALID}, commas between them; or the path of a file of them"
_BUNDLE_KEYS: Final = "the path of a JSON or TOML file of keys that verify bundles"
_DATE: Final = "a date such as 2027-01-31, which begins at 00:00 UTC"
_SHARE: Final = "0, or a number from 0.01 to 1"
_LABEL: Final = "printable text of 1 to 256 characters"

#: All settings, in the order of the fields of :class:`~capgate.settings.Settings`.
SETTINGS: Final = (
    _row(
        "policy",
        "the path of a policy document",
        "a policy document, evaluated in Python: a path, or (keyword) a dict. At most one of `policy`, `artifact` and"
        " `store` is given, and none only where the middleware is given a checker",
        lambda given: isinstance(given, dict) or _is_path(given),
        value="the path of a policy document, or the document as a dict",
    ),
    _path_row(
        "artifact",
        "the path of a Wasm module, or of an OPA bundle",
        "path of a Wasm module, or of an OPA bundle",
    ),
    _row("artifact_sha256", DIGEST, f"the only module that is accepted: {DIGEST}", is_digest),
    _choice_row("engine", _ENGINES, "`auto` (wasmer where it imports, else wasmtime), `wasmer` or `wasmtime`"),
    _number_row("pool_size", 1, 1_024, "instances per event loop, 1 to 1,024"),
    Setting("limits", "bounds on the module and on each call", _text, "a capgate.Limits", _check_limits, in_code=True),
    _flag_row(
        "reuse",
        "the operator's word that a module keeps no state between questions, so that its instances are neither set "
        "back nor replaced",
    ),
    _row(
        "entrypoint",
        "the path of a rule, as given to opa build, such as 'orders/allow'",
        "the rule to ask of a module that OPA compiled, as in `opa build -e`, such as `orders/allow`; needed where it"
        " has several",
        lambda given: isinstance(given, str) and 1 <= len(given) <= 1_024 and given.isprintable(),
    ),
    _choice_row(
        "entrypoint_result",
        _RESULTS,
        'what that rule gives: `decision`, a boolean or `{"allow": ..., "reason": ...}`; or `denials`, a set or array'
        " of reasons that is empty where it allows",
    ),
    _flag_row(
        "require_facts",
        "reject a module that is told no facts, as one of the interface `capgate:policy@0.1.0`, which is otherwise"
        " asked without them",
    ),
    Setting(
        "safe",
        "operations allowed without asking a policy, exact, such as `env.read env_var:TZ`, or `env.read`; commas"
        " between them",
        _list,
        f"{_SAFE}; separated by commas",
        _check_safe,
    ),
    _number_row(
        "cache_size",
        0,
        LARGEST,
        f"decisions to remember, 0 (none) to {LARGEST:,}, for policies that say which inputs they look at; without it"
        f" {USUAL:,} for those, and none for others",
        or_none=True,
    ),
    _row("service", _LABEL, "told to the policy and the log", _is_label, or_none=False),
    _row(
        "mode",
        "dev, test, prod, or another name of 1 to 256 printable characters, none that differs from a known one only by"
        " case, quotes or a comment",
        "the environment that the policy and the log are told",
        _is_label,
        or_none=False,
    ),
    Setting(
        "public",
        "routes that are open without asking: exact paths as declared, or a mount of files by its path; commas between",
        _list,
        f"{_PUBLIC}; separated by commas",
        _check_public,
    ),
    _choice_row(
        "unknown_routes",
        (HIDE, PASS),
        "what no route answers: `hide` denies it like a route that declares nothing; `pass` leaves it to the"
        " framework's own 404, 405 or redirect of slashes, where for certain nothing else runs. Strangers then learn"
        " which paths and methods exist",
    ),
    _choice_row(
        "enforce",
        (ALWAYS, MONITOR),
        "`always`, or `monitor`: then no denial counts. What would have been denied is an event (`would_deny`) and goes"
        " on, so that a gate can be tried in an application that runs. The variable may say `monitor` only where the"
        " code says `enforce_from_env`",
    ),
    _flag_row("enforce_from_env", "let the variable `CAPGATE_ENFORCE` say `monitor`")._replace(in_code=True),
    Setting(
        "enforce_after",
        "with `monitor`: a date (`2027-01-31`), from 00:00 UTC of which on denials count",
        _date,
        _DATE,
        _check_date,
    ),
    _flag_row(
        "expose_reasons",
        "tell clients why they were denied, and with overload (`pool_exhausted`) to try again (`Retry-After`)",
    ),
    _row(
        "www_authenticate",
        "a challenge such as 'Bearer realm=\"orders\"', in at most 1,024 characters",
        'how to log in, as the header `WWW-Authenticate` says it, such as `Bearer realm="orders"`: sent with status'
        " 401, in place of 403, to who is not logged in and is denied by the policy. Such routes then show that they"
        " exist",
        lambda given: isinstance(given, str) and len(given) <= 1_024 and _CHALLENGES.fullmatch(given) is not None,
    ),
    _number_row(
        "sample_allows", 0.0, 1.0, "fraction of allows that become events, 0 to 1; denials always do", whole=False
    ),
    Setting(
        "log_facts",
        "facts of a question that events tell in `facts`, by names such as `actor.roles`, `resource.total`,"
        " `args.amount`, `context.ip`, `actor.on_behalf_of` (kinds and ids) or `actor.on_behalf_of.roles`; no others"
        " are in the log; commas between",
        _list,
        f"{_FACTS}; commas between",
        _check_log_facts,
    ),
    _number_row(
        "body_bytes",
        *BODY_BYTES,
        "how much of a body is read where a declaration asks for its hash (`args_hash`) or for arguments in it; more is"
        " denied",
    ),
    _flag_row(
        "capabilities_end_with_request",
        "let capabilities that were handed to a request deny everything (`request_ended`) once it is over, background"
        " tasks included, so that a task which outlives it does not go on in its name",
    ),
    _flag_row("openapi", "show in a FastAPI application's OpenAPI document what its routes declare"),
    _flag_row(
        "strict",
        "refuse to start where a route is undeclared or cannot be resolved, instead of denying it only",
    ),
    _flag_row("strict_paths", "deny paths with control characters, NUL, U+FFFD or surrogates"),
    _path_row(
        "contract",
        "the path of a handler contract, as capgate contract export writes it",
        "path of a handler contract that routes, vocabulary and policy have to agree with at start-up",
    ),
    Setting(
        "trusted_keys",
        "public keys as lines of text (commas between them), or the path of a file of them: an artifact that they did"
        " not sign, with its manifest beside it, is rejected",
        parse_trusted_keys,
        _TRUSTED_KEYS,
        _check_trusted_keys,
    ),
    _number_row("signature_threshold", 1, MOST_KEYS, "how many of the keys have to have signed, 1 to 32"),
    _flag_row(
        "require_signature",
        "true: refuse to start without `trusted_keys` (or, for an artifact, `bundle_keys`), so that forgetting them is"
        " noticed; false: a store may be followed without them, so that whoever may write to it decides",
        or_none=True,
    ),
    Setting(
        "bundle_keys",
        "keys that verify OPA bundles, by id, or the path of a JSON or TOML file of them: nothing but a bundle that one"
        " of them signed is loaded",
        _text,
        _BUNDLE_KEYS,
        _check_bundle_keys,
    ),
    _row(
        "bundle_scope",
        _LABEL,
        "the scope that bundles have to be signed for, in place of the one of the key",
        _is_label,
    ),
    _row(
        "policy_name",
        "the name of a policy: 1 to 64 letters, digits, dots, underscores, plus and minus signs",
        "the name that the signed manifest must give the policy; in a store, the one to follow",
        lambda given: isinstance(given, str) and _NAME.fullmatch(given) is not None,
    ),
    _path_row(
        "store",
        "the path of a policy store",
        "path of a policy store, in place of `artifact`: what is active there under `policy_name` answers, unless"
        " `artifact_sha256` pins one version by the digest of its module or of its manifest. Without `trusted_keys`, a"
        " pinned module is asked as these settings say, and not as its manifest does",
    ),
    _number_row("store_poll", *STORE_POLL, "seconds between two looks at it, 0.05 to 3,600", whole=False),
    Setting(
        "rollback_share",
        "fraction of faults among the first answers of a new policy at which it is rolled back: 0 (never), or 0.01 to"
        " 1",
        _number,
        _SHARE,
        _check_share,
    ),
    _flag_row("keep_expired", "let a policy go on answering after it expired, which otherwise denies everything"),
)
#: The limits, of which each has a variable of its own.
LIMITS: Final = (
    _limit_row(
        "fuel",
        "what one call may spend, see below; without it 1,000,000, of a module that OPA compiled "
        "10,000,000, and of a document with conditions 50,000,000",
    ),
    _limit_row(
        "deadline",
        "seconds that a question waits for an instance (`pool_exhausted`), and for the answer of an application's own"
        " checker (`policy_timeout`)",
    ),
    _limit_row("body_seconds", "seconds in which a body that is hashed or read has to be there (`body_timeout`)"),
    _limit_row("body_idle_seconds", "seconds that may pass without a piece of it (`body_timeout`)"),
    _limit_row(
        "actor_seconds",
        "seconds that an asynchronous `actor` may take (`actor_timeout`), and a function that looks up facts, or the"
        " context (`facts_unavailable`)",
    ),
    _limit_row("start_seconds", "seconds that a request waits for the gate to start (`start_timeout`)"),
    _limit_row(
        "memory_pages",
        "64 KiB each; without it 256, and 1,024 of a module that OPA compiled or capgate built",
    ),
    _limit_row("table_elements", "elements in a table"),
    _limit_row("call_depth", "nested calls inside the guest, weighted by frame size"),
    _limit_row("input_bytes", "text of one question"),
    _limit_row("output_bytes", "text of one answer"),
    _limit_row("module_bytes", "size of a module file; of a bundle, also of all that is in it together"),
    _limit_row("waiters", "callers that may wait for an instance at once"),
    _limit_row("compile_seconds", "processor time that compiling a module may take"),
    _limit_row("compile_megabytes", "memory of the child process that tries it, in MiB"),
)
#: Every setting that has a variable, by its name.
BY_NAME: Final = {row.name: row for row in (*SETTINGS, *LIMITS) if not row.in_code}
#: Every variable that :meth:`Settings.from_env` knows.
VARIABLES: Final = tuple(row.variable for row in BY_NAME.values())
#: The settings that say which checker answers and how, which says nothing to one that is there already.
OF_CHECKER: Final = (
    "policy",
    "artifact",
    "artifact_sha256",
    "engine",
    "pool_size",
    "reuse",
    "entrypoint",
    "entrypoint_result",
    "require_facts",
    "safe",
    "cache_size",
    "trusted_keys",
    "signature_threshold",
    "require_signature",
    "bundle_keys",
    "bundle_scope",
    "policy_name",
    "store",
    "store_poll",
    "rollback_share",
    "keep_expired",
)
