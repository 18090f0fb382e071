"""Reads the assertions of a policy document: what it is to allow never, or always.

::

    {"never": ["order.delete"],                              actions, as in rules; or "always" in place of "never"
     "actors": ["user"], "modes": ["prod"], "resources": ["order"],     as in rules
     "when": "!('admin' in actor.roles)"}                    a condition; absent: whatever the facts are

They change no answer. ``capgate check`` proves each of them, or refutes it with a question, see
:mod:`~capgate.policy.analysis.proofs`. One is about the questions that all of its lists match and whose condition is
true, not about those of which it is not known.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..conditions import Node
from ..errors import ConfigError
from .conditional import ConditionReader
from .places import Key
from .rules import DENY_EFFECT, Rule, read_rules
from .strict import check_keys, mistake, shallow

MAX_ASSERTIONS: Final = 1_000
NEVER, ALWAYS = "never", "always"
ASSERTION_KEYS: Final = (NEVER, ALWAYS, "actors", "modes", "resources", "when")

_HERE: Final[Key] = ("assert",)


class Assertion(msgspec.Struct, frozen=True):
    """What a document is to allow ``never`` or ``always``: questions that a denial by ``rule`` would be about.

    They are those of which ``condition`` is true, if there is one.
    """

    effect: str
    rule: Rule
    condition: Node | None = None


def read_assertions(
    raw: object, declared: Any, modes: frozenset[str], conditions: ConditionReader
) -> tuple[Assertion, ...]:
    """Return the assertions that a document's ``assert`` stands for, or raise :class:`ConfigError`.

    ``declared`` are the application's own actions, and ``conditions`` reads theirs, apart from those of rules.
    """
    if not isinstance(raw, (list, tuple)):
        raise mistake(_HERE, shallow(raw), "a list of assertions")
    if len(raw) > MAX_ASSERTIONS:
        raise mistake(_HERE, f"{len(raw)} assertions", f"at most {MAX_ASSERTIONS}")
    effects = [_effect((*_HERE, number), item) for number, item in enumerate(raw)]
    written = [_as_rule(item, effect) for item, effect in zip(raw, effects, strict=True)]
    try:
        rules = read_rules(written, declared, modes, conditions)
    except ConfigError as error:
        raise _moved(error, effects) from None
    return tuple(
        Assertion(effect, rule, None if rule.when is None else conditions.node(rule.when))
        for effect, rule in zip(effects, rules, strict=True)
    )


def _effect(where: Key, raw: object) -> str:
    if not isinstance(raw, dict):
        raise mistake(where, shallow(raw), "an object with the keys " + ", ".join(ASSERTION_KEYS))
    check_keys(raw, ASSERTION_KEYS, where)
    given = [effect for effect in (NEVER, ALWAYS) if effect in raw]
    if len(given) != 1:
        valid = "either 'never' or 'always', with a list of actions"
        raise mistake((*where, given[1]) if given else where, " and ".join(given) or None, valid)
    return given[0]


def _as_rule(raw: dict[str, Any], effect: str) -> dict[str, Any]:
    """Return an assertion as a denial, which is read alike."""
    rest = {key: value for key, value in raw.items() if key not in (NEVER, ALWAYS)}
    return {"effect": DENY_EFFECT, "actions": raw[effect], **rest}


def _moved(error: ConfigError, effects: list[str]) -> ConfigError:
    """Return the error of a rule as one of the assertion that it was made of."""
    key = error.key or ()
    if len(key) > 1 and isinstance(key[1], int):
        inner = tuple(effects[key[1]] if step == "actions" else step for step in key[2:3])
        key = (*_HERE, key[1], *inner, *key[3:])
    else:
        key = _HERE
    moved = mistake(key, error.seen, error.valid, error.nearest)
    moved.within = error.within
    return moved
