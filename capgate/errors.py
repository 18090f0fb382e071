"""Defines every exception that capgate raises.

::

    CapgateError
    ├── ConfigError               at startup only: .setting .seen .valid; in a file also .key .path .line .column
    ├── ArtifactError             a policy file that will not be used
    │   ├── ArtifactNotFound
    │   │   └── ReleasePruned     .version .candidates
    │   ├── DigestMismatch        .expected .actual
    │   ├── SignatureInvalid      .reason .signers .threshold
    │   ├── ManifestError         .field
    │   ├── BundleError           .reason .member
    │   ├── StoreError            .reason .changed .ahead
    │   ├── ContractDrift         .field .expected .actual
    │   └── FixturesFailed        .failures .total
    ├── FixtureError              a file of golden fixtures: .path .line .column .where .reason
    ├── WasmError                 bytes that are not an acceptable module
    │   ├── DecodeError           .offset .reason
    │   └── RestrictedModule      .rule .where
    ├── PolicyError               at run time: each becomes a deny with .code
    │   ├── MalformedInput
    │   ├── PolicyTrap            .kind
    │   ├── PolicyTimeout         .limit
    │   ├── WaitTimeout           .limit .seconds
    │   │   ├── ActorTimeout
    │   │   ├── BodyTimeout
    │   │   └── StartTimeout
    │   ├── AbiError              .rule
    │   ├── BuiltinError          .builtin .reason
    │   ├── PoolExhausted
    │   ├── FactsUnavailable      .hook .problem
    │   ├── RequestEnded
    │   └── PolicyUnavailable
    ├── CapabilityDenied          .decision
    ├── ActorUnknown              also a TypeError: .seen .attributes
    └── EngineUnavailable         .engine .hint

Facts are attributes, and tests assert those; the sentence is for people.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar, Final

#: What ends a process, a thread or a generator. Whoever catches it leaves nobody to answer.
_ENDINGS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)


class CapgateError(Exception):
    """Root of everything capgate raises on purpose."""


class ConfigError(CapgateError):
    """A setting that cannot be used. Raised at startup, never while a request is served.

    ``setting`` is its name, ``seen`` the offending value, ``valid`` says what would have been accepted. In a file or in
    text, ``key`` is the way to it (names, and numbers from 0). ``path`` is the file, ``line`` and ``column`` (in
    characters, both from 1) the place. Each is ``None`` where there is none, or it is not known.
    So is ``nearest``, which is what was probably meant, and ``within``: line and column inside the text of a condition.
    """

    def __init__(
        self,
        setting: str,
        seen: object,
        valid: str,
        *,
        nearest: str | None = None,
        key: tuple[str | int, ...] | None = None,
        path: str | None = None,
        line: int | None = None,
        column: int | None = None,
        within: tuple[int, int] | None = None,
    ) -> None:
        if "PRIVATE KEY" in repr(seen):  # given by mistake, and this goes to a log
            seen = "a private key, which is not shown"
        # Now, because what was seen may change, or raise when it is shown.
        self._sentence = f"{setting}: {_short(seen)} is not usable; valid: {valid}"
        if nearest is not None:
            self._sentence += f"; did you mean {_short(nearest)}?"
        super().__init__(self._sentence)
        self.setting = setting
        self.seen = seen
        self.valid = valid
        self.nearest = nearest
        self.key = key
        self.path = path
        self.line = line
        self.column = column
        self.within = within

    def __str__(self) -> str:
        if self.line is None and self.within is not None:
            return "line {}, column {} of the condition: {}".format(*self.within, self._sentence)
        numbers = [number for number in (self.line, self.column) if number is not None]
        if self.path is not None:  # as editors and terminals take it for a link
            return f"{':'.join(map(str, (self.path, *numbers)))}: {self._sentence}"
        place = ", ".join(f"{word} {number}" for word, number in zip(("line", "column"), numbers, strict=False))
        return f"{place}: {self._sentence}" if place else self._sentence


class ArtifactError(CapgateError):
    """A policy artifact that will not be loaded. ``path`` is where it was looked for, if anywhere."""

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message if path is None else f"{path}: {message}")
        self.path = path


class ArtifactNotFound(ArtifactError):
    """There is no regular file at the configured path."""


class ReleasePruned(ArtifactNotFound):
    """A rollback to a release that was removed since it was active. ``version`` is its own.

    A rollback can go to the versions ``candidates``, the latest first; perhaps to none.
    """

    def __init__(self, message: str, *, version: int | None, candidates: tuple[int, ...], path: str) -> None:
        super().__init__(message, path=path)
        self.version = version
        self.candidates = candidates


class DigestMismatch(ArtifactError):
    """The bytes read have another SHA-256 than the one pinned. Both are attributes, 64 hex digits each."""

    def __init__(self, *, expected: str, actual: str, path: str | None = None) -> None:
        super().__init__(f"SHA-256 is {actual}, pinned is {expected}", path=path)
        self.expected = expected
        self.actual = actual


class SignatureInvalid(ArtifactError):
    """A signature is required, and what there is does not suffice. ``reason`` is one of these:

    ``missing``    no signature file, or no manifest
    ``malformed``  the signature file, or the token of a bundle, is not as it has to be
    ``forged``     by a trusted key, but of other bytes
    ``threshold``  by fewer trusted keys than ``threshold``; ``signers`` are the ids of those

    Of a bundle's own signature also:

    ``key``        by no configured key
    ``algorithm``  not the one that the key is configured for
    ``scope``      not the one that it has to be for
    ``time``       expired, or not yet valid
    ``files``      it does not cover exactly the files that there are
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        signers: tuple[str, ...] = (),
        threshold: int | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(message, path=path)
        self.reason = reason
        self.signers = signers
        self.threshold = threshold


class ManifestError(ArtifactError):
    """The manifest is malformed, contradicts the artifact, or is for somewhere else or another time.

    ``field`` is the one at fault as the file spells it, or ``None`` where the file as a whole is. It is ``fixtures``
    where those that it names are not there, or are none.
    """

    def __init__(self, message: str, *, field: str | None = None, path: str | None = None) -> None:
        super().__init__(message, path=path)
        self.field = field


class BundleError(ArtifactError):
    """An OPA bundle that will not be used. ``member`` is the file in it that is at fault, if one is.

    ``reason`` is one of these:

    ``gzip``      no gzip file, a damaged one, or more than one
    ``tar``       no archive of the one form that is read, or a damaged one
    ``size``      more bytes than the limit, packed or unpacked, of all or of one file
    ``count``     too many members
    ``kind``      a member that is neither a plain file nor a folder, or an extended header that says more than a name
    ``name``      a name that is unusable, there twice, or of a file that OPA would take for something else
    ``manifest``  ``.manifest`` is malformed or contradicts itself
    ``data``      data that are malformed, said twice, or in a format that is not read
    ``roots``     data, or an entry point, outside of the roots that the manifest declares
    ``module``    not exactly one WebAssembly module
    ``delta``     a bundle of changes, which has no policy of its own
    """

    def __init__(self, message: str, *, reason: str, member: str | None = None, path: str | None = None) -> None:
        super().__init__(message, path=path)
        self.reason = reason
        self.member = member


class StoreError(ArtifactError):
    """A policy store cannot be used, or does not do what it was asked for. ``reason`` is one of these:

    ``unsafe``          something in it is a link, no regular file, or others may write it
    ``corrupt``         its state does not add up, or is missing where there was one
    ``locked``          another process has been writing for too long
    ``name``            no name of a policy, or one that differs from another only in case
    ``conflict``        this version of the policy is published already, with another content
    ``lowers_version``  activating it would lower the version; that is what a rollback is for
    ``not_recorded``    a rollback to what never was active
    ``moved``           the active policy is no longer the one that was named
    ``clock``           this clock is more than five minutes ahead of that of the store's file system: ``ahead`` seconds
    ``restored``        it is behind what was followed before, as if it came from a backup, and nothing signed is newer
    ``io``              the operating system says so; the cause is the ``OSError``

    ``changed`` says whether what was asked for was done all the same. Then only the disk may not have it yet.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        path: str | None = None,
        ahead: float | None = None,
        changed: bool = False,
    ) -> None:
        super().__init__(message, path=path)
        self.reason = reason
        self.ahead = ahead
        self.changed = changed


class ContractDrift(ArtifactError):
    """What runs is not what the handler contract says. ``field`` is the contract's key.

    ``expected`` is what stands there and ``actual`` what runs; of ``routes`` and ``actions`` only those that differ, as
    tuples of text.
    """

    def __init__(self, field: str, expected: object, actual: object, *, path: str | None = None) -> None:
        super().__init__(f"{field}: the contract has {_short(expected)}, what runs has {_short(actual)}", path=path)
        self.field = field
        self.expected = expected
        self.actual = actual


class FixturesFailed(ArtifactError):
    """A policy does not answer its golden fixtures as expected, so it is not activated.

    ``failures`` are the :class:`~capgate.testing.golden.Outcome` of those that failed, each with its fixture and the
    answers. ``total`` is how many there are. None at all is a failure too.
    """

    def __init__(self, message: str, *, failures: tuple[Any, ...], total: int, path: str | None = None) -> None:
        super().__init__(message, path=path)
        self.failures = failures
        self.total = total


class FixtureError(CapgateError):
    """A file of golden fixtures that cannot be used, because of ``reason``.

    ``line`` and ``column`` are where, from 1; ``line`` alone is where the fixture begins, and then ``where`` is the
    path of the key in it, such as ``input.resource``. ``None``, or empty, where there is no saying.
    """

    def __init__(
        self, reason: str, *, path: str, line: int | None = None, column: int | None = None, where: str = ""
    ) -> None:
        place = ":".join(str(part) for part in (path, line, column) if part is not None)
        super().__init__(f"{place}: {where}: {reason}" if where else f"{place}: {reason}")
        self.reason = reason
        self.path = path
        self.line = line
        self.column = column
        self.where = where


class WasmError(CapgateError):
    """Bytes that are not an acceptable WebAssembly module."""


class DecodeError(WasmError):
    """The bytes are malformed at ``offset`` (from the start). ``reason`` is worded like the WebAssembly test suite."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class RestrictedModule(WasmError):
    """A well-formed module that capgate does not run: ``rule`` names the restriction, ``where`` the place.

    ``features`` are all that it needs of WebAssembly and may not have, ``imports`` all that it imports and may not:
    ``module.name``, or the interface that a component imports.
    """

    def __init__(
        self,
        rule: str,
        where: str,
        detail: str = "",
        *,
        features: tuple[str, ...] = (),
        imports: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{rule} ({where})" + (f": {detail}" if detail else ""))
        self.rule = rule
        self.where = where
        self.detail = detail
        self.features = features
        self.imports = imports


class PolicyError(CapgateError):
    """A call of a policy that gave no usable answer. Checkers turn it into ``Deny(code)``."""

    code: ClassVar[str] = "internal_error"


class MalformedInput(PolicyError):
    """The question cannot be asked: a value of a wrong type, text that is not Unicode, too many bytes."""

    code = "malformed_input"


class PolicyTrap(PolicyError):
    """The guest trapped. ``kind`` is one of :data:`capgate.runtime.engine.TRAP_KINDS`."""

    code = "policy_trap"

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"trap: {kind}" + (f" ({detail})" if detail else ""))
        self.kind = kind


class PolicyTimeout(PolicyError):
    """``fuel``, or else the ``deadline``, ran out before there was an answer; ``limit`` is the name of that one."""

    code = "policy_timeout"

    def __init__(self, message: str = "", *, limit: str = "fuel") -> None:
        super().__init__(message)
        self.limit = limit


class WaitTimeout(PolicyError):
    """Something that a question needs was not there in time. ``limit`` is the name in
    :class:`~capgate.limits.Limits` of the ``seconds`` that there were."""

    def __init__(self, limit: str, seconds: float) -> None:
        super().__init__(f"{limit} are {seconds:g}")
        self.limit = limit
        self.seconds = seconds


class ActorTimeout(WaitTimeout):
    """The application did not say in time who is asking."""

    code = "actor_timeout"


class BodyTimeout(WaitTimeout):
    """The body of a request, which was to be hashed, was not there in time."""

    code = "body_timeout"


class StartTimeout(WaitTimeout):
    """The gate did not start in time."""

    code = "start_timeout"


class AbiError(PolicyError):
    """The guest broke the policy ABI: ``rule`` says which part of it, in a word or two."""

    code = "malformed_result"

    def __init__(self, rule: str, detail: str = "") -> None:
        super().__init__(rule + (f": {detail}" if detail else ""))
        self.rule = rule


class BuiltinError(PolicyError):
    """A function that a Rego policy calls cannot be computed here, so that there is no telling what the policy says.

    ``builtin`` is its Rego name, ``reason`` one of these:

    ``limit``     it would take more work or memory than is granted, or its arguments are nested too deeply
    ``text``      an argument or the result is no Rego value: malformed text, a lone surrogate, a number out of bounds
    ``ambiguous`` releases of OPA give different results, or machines do
    ``internal``  a fault of ours; the cause is what happened
    """

    code = "policy_trap"

    def __init__(self, builtin: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{builtin}: {reason}" + (f": {detail}" if detail else ""))
        self.builtin = builtin
        self.reason = reason
        self.detail = detail


class PoolExhausted(PolicyError):
    """No instance became free within the deadline, or too many callers wait already."""

    code = "pool_exhausted"


class Overloaded(PoolExhausted):
    """So many callers wait already that the next one is turned away at once, before anything is done for it."""


class FactsUnavailable(PolicyError):
    """A function of the application's, ``hook``, did not give the facts that a question needs.

    ``problem`` says what it did instead. The sentence is made of names in code and of settings alone.
    """

    code = "facts_unavailable"

    def __init__(self, hook: str, problem: str) -> None:
        super().__init__(f"{hook} {problem}")
        self.hook = hook
        self.problem = problem


class RequestEnded(PolicyError):
    """The request that capabilities were handed to is over, and they end with it."""

    code = "request_ended"


class PolicyUnavailable(PolicyError):
    """There is no policy to ask: it did not load, or its instances keep failing."""

    code = "policy_unavailable"


def is_by_policy(error: BaseException) -> bool:
    """Say whether ``error`` tells what a policy did: it trapped, used up its fuel or broke its interface.

    A limit of waiting that passed, a failure of the engine or a fault of capgate's is the host's doing.
    """
    if isinstance(error, PolicyTrap):
        return error.kind != "engine_fault"
    if isinstance(error, BuiltinError):
        return error.reason != "internal"
    return isinstance(error, (PolicyTimeout, AbiError))


class CapabilityDenied(CapgateError):
    """A policy did not allow an effect, which therefore did not happen. Answered with 403 by the middleware.

    ``decision`` is what was asked and answered, a :class:`~capgate.model.Decision`. The text and the repr have its id
    and nothing more, because frameworks show them to strangers. The rest is in the attribute, in the event in the log,
    and in a note (PEP 678), which tracebacks show.
    """

    def __init__(self, decision: Any) -> None:
        super().__init__(decision)
        self.decision = decision
        self.__notes__ = [_question_and_reason(decision)]

    def __str__(self) -> str:
        return f"denied (decision {self.decision.decision_id})"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: decision {self.decision.decision_id}>"


def _question_and_reason(decision: Any) -> str:
    input, reason = getattr(decision, "input", None), getattr(getattr(decision, "result", None), "reason", None)
    resource = getattr(input, "resource", None)
    what = "" if input is None else f"{_fact(input, 'action')} "
    where = "" if resource is None else f"on {_fact(resource, 'kind')} {_fact(resource, 'id')} "
    return f"{what}{where}is denied: {_text(reason)}"


def _fact(part: object, name: str) -> str:
    return _text(getattr(part, name, None))


def _text(value: object) -> str:
    """Return text as a literal, printable and short; of anything else the class, since its repr may raise."""
    return _short(value[:200]) if type(value) is str else f"<{type(value).__name__}>"


class ActorUnknown(CapgateError, TypeError):
    """It is not certain who is asking, which is a denial.

    ``seen`` is the name of the class of what there was, and ``attributes`` are those that were looked for. The sentence
    is made of names in the application's code alone, so that events may show it: no value of any of them is in it.
    """

    def __init__(self, seen: object, problem: str, attributes: tuple[str, ...] = ()) -> None:
        self.seen = type(seen).__name__
        self.attributes = attributes
        super().__init__(f"{self.seen} {problem}; {_REMEDY}")


#: What to do where an actor is not known.
_REMEDY: Final = "pass actor=, a function of the scope that returns a capgate Actor, such as User(id)"


class EngineUnavailable(CapgateError):
    """An engine asked for by name cannot be used here. ``hint`` says what to install, and on which Python."""

    def __init__(self, engine: str, hint: str) -> None:
        super().__init__(f"engine {engine!r} is not available: {hint}")
        self.engine = engine
        self.hint = hint


def ends_task(error: BaseException) -> bool:
    """Say whether ``error`` ends the task or the process, so that nobody is left who could answer.

    Every other :class:`BaseException` becomes a denial: an engine's panic, for one, is no :class:`Exception`. The one
    guard for both, which costs nothing where nothing is raised::

        try:
            ...
        except BaseException as error:
            if ends_task(error):
                raise
            ...  # deny
    """
    if isinstance(error, Exception):
        return False
    inner = getattr(error, "exceptions", None)
    if type(inner) is tuple:  # an exception group that is not an Exception
        return any(ends_task(part) for part in inner)
    return isinstance(error, (*_ENDINGS, *_cancellations()))


def _cancellations() -> list[type[BaseException]]:
    """Return what asyncio and trio raise in a task that is cancelled, as far as they are loaded.

    Neither is imported for this, nor asked which of them runs: a worker thread gets cancellation of both kinds too.
    """
    classes = (("asyncio", "CancelledError"), ("trio", "Cancelled"))
    named = [getattr(sys.modules.get(library), name, None) for library, name in classes]
    return [cls for cls in named if isinstance(cls, type)]


def _short(value: object, limit: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"
