"""Holds the bounds on a policy and on one call of it, and the checks of values that several rooms share."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import msgspec

from .errors import ConfigError

#: name -> (lowest, highest) accepted value. Zero never means "unlimited", and no limit can be switched off.
RANGES: Final[dict[str, tuple[float, float]]] = {
    "fuel": (1_000, 10_000_000_000),
    "deadline": (0.001, 60.0),
    "body_seconds": (0.01, 3_600.0),
    "body_idle_seconds": (0.01, 600.0),
    "actor_seconds": (0.01, 60.0),
    "start_seconds": (0.1, 600.0),
    "memory_pages": (1, 16_384),
    "table_elements": (0, 1_000_000),
    "call_depth": (64, 100_000),
    "input_bytes": (1_024, 16_777_216),
    "output_bytes": (16, 1_048_576),
    "module_bytes": (1_024, 268_435_456),
    "waiters": (0, 1_000_000),
    "compile_seconds": (0.1, 120.0),
    "compile_megabytes": (64, 65_536),
}
#: What one call may spend where nobody said: of a module that OPA compiled, of one that capgate built with conditions,
#: each of which takes 6 million at most (some 0.5 ms), whatever the facts are, and of any other.
REGO_FUEL: Final = 10_000_000
FACTS_FUEL: Final = 50_000_000
FUEL: Final = 1_000_000
#: How large a memory may be where nobody said: of a module that OPA compiled or capgate built, and of any other. What
#: cannot be set back is touched for the first time by each question, at 2 microseconds for each 4 KiB.
KNOWN_PAGES: Final = 1_024
PAGES: Final = 256
#: Those limits that depend on the module where nobody said.
BY_MODULE: Final = frozenset({"fuel", "memory_pages"})
#: Lowest and highest number of bytes of a body that is read for its hash.
BODY_BYTES: Final = (0, 1_073_741_824)
#: Lowest and highest number of seconds between two looks at a store.
STORE_POLL: Final = (0.05, 3_600.0)
#: Most keys that can be trusted at once, and most signatures of one manifest.
MOST_KEYS: Final = 32
#: Those limits that need not be whole numbers.
FRACTIONS: Final = frozenset(
    {"deadline", "body_seconds", "body_idle_seconds", "actor_seconds", "start_seconds", "compile_seconds"}
)
#: Those limits that a policy cannot need: they bound what it waits for, and who waits for it.
OF_WAITING: Final = frozenset(
    {"deadline", "body_seconds", "body_idle_seconds", "actor_seconds", "start_seconds", "waiters"}
)
#: What a SHA-256 looks like wherever one is given or written.
DIGEST: Final = "64 lower-case hex digits"

_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Upper bounds, each enforced on every engine. A value outside :data:`RANGES` raises :class:`ConfigError`.

    ``fuel``            what one call may spend; a million is a millisecond of computing or less. ``None`` is a million,
                        ten for a module that OPA compiled, and 200 for a document with conditions. Documents need
                        some thousands; what OPA compiled, 200 thousand and 300 for each byte of a question
    ``deadline``        seconds that a question may wait for an instance, and an application's own checker for its
                        answer; processor seconds of a batch of questions, and of one with Rego's builtins
    ``body_seconds``       seconds in which a body has to be there that is read for its hash
    ``body_idle_seconds``  seconds without a piece of that body
    ``actor_seconds``      seconds that the application may take to say who is asking
    ``start_seconds``      seconds that a request may wait for the gate to start
    ``memory_pages``    linear memory, in pages of 64 KiB. ``None`` is 256, and 1,024 for a module that OPA compiled or
                        capgate built
    ``table_elements``  elements in a table
    ``call_depth``      nested calls inside the guest, weighted by frame size
    ``input_bytes``     UTF-8 bytes of all strings of one policy input together
    ``output_bytes``    UTF-8 bytes of a reason
    ``module_bytes``    size of a module file; of a bundle, also of all that is in it together
    ``waiters``         callers that may wait for an instance at once; the next one is denied immediately
    ``compile_seconds``    processor time that compiling a module may take, in a child process that tries it first;
                           not for small modules and those built by capgate, see
                           :mod:`capgate.runtime.engine.child_compilation`
    ``compile_megabytes``  memory of that child, in MiB, its interpreter's 20 included
    """

    fuel: int | None = None
    deadline: float = 0.1
    body_seconds: float = 30.0
    body_idle_seconds: float = 5.0
    actor_seconds: float = 5.0
    start_seconds: float = 30.0
    memory_pages: int | None = None
    table_elements: int = 10_000
    call_depth: int = 2_000
    input_bytes: int = 65_536
    output_bytes: int = 4_096
    module_bytes: int = 67_108_864
    waiters: int = 1_024
    compile_seconds: float = 10.0
    compile_megabytes: int = 1_024

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in BY_MODULE:
                check_number(name, value, low, high, whole=name not in FRACTIONS)

    @property
    def call_fuel(self) -> int:
        """What one call may spend, where nothing is known of the module but these limits."""
        return FUEL if self.fuel is None else self.fuel

    @property
    def most_pages(self) -> int:
        """How large a memory may be, where nothing is known of the module but these limits."""
        return PAGES if self.memory_pages is None else self.memory_pages

    def resolved(self, *, rego: bool, built: bool = False, facts: bool = False) -> Limits:
        """Return these limits with those of :data:`BY_MODULE` that a module has.

        ``rego`` says that OPA compiled it, ``built`` that capgate built it, ``facts`` that it then looks at facts.
        """
        fuel, pages = REGO_FUEL if rego else FUEL, KNOWN_PAGES if rego or built else PAGES
        if built and facts:
            fuel = FACTS_FUEL
        return msgspec.structs.replace(
            self,
            fuel=fuel if self.fuel is None else self.fuel,
            memory_pages=pages if self.memory_pages is None else self.memory_pages,
        )


def number_between(low: float, high: float, *, whole: bool) -> str:
    """Return in words what :func:`check_number` takes."""
    return f"a whole number from {low:.0f} to {high:.0f}" if whole else f"a number from {low:g} to {high:g}"


def check_number(name: str, value: Any, low: float, high: float, *, whole: bool) -> None:
    """Raise :class:`ConfigError` unless ``value`` is a real number (not a bool, not NaN) with low <= value <= high."""
    types: tuple[type, ...] = (int,) if whole else (int, float)
    if type(value) not in types or not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(name, value, number_between(low, high, whole=whole))


def is_digest(value: object) -> bool:
    """Say whether ``value`` is a SHA-256 as :data:`DIGEST` says."""
    return type(value) is str and _DIGEST.fullmatch(value) is not None


def check_digest(name: str, value: object) -> None:
    """Raise :class:`ConfigError` unless ``value`` is a SHA-256 as :data:`DIGEST` says."""
    if not is_digest(value):
        raise ConfigError(name, value, DIGEST)
