"""Holds a checker that notes what it is asked, and answers as a test tells it to."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import msgspec

from ..actions import BUILTIN_ACTIONS, SECTIONS, VOCABULARY, Vocabulary
from ..artifact.build import build_policy
from ..artifact.load import WasmArtifact
from ..checker.local import LocalPolicyChecker
from ..checker.wasm import WasmPolicyChecker
from ..errors import ConfigError
from ..limits import Limits
from ..middleware.middleware import CapabilityMiddleware
from ..model import ALLOW, Deny, PolicyInput, PolicyResult, Reason, Resource
from ..policy import Document, RuntimePolicy
from ..runtime.pool import WasmPool
from ..settings.settings import Settings

#: Seconds for a question: tests run on busy machines, and few of them are about the deadline.
PATIENT: Final = Limits(deadline=20.0)

_BUILTIN: Final = frozenset(action.name for action in BUILTIN_ACTIONS)
#: What ends a judgement before a policy has a say, as :class:`~capgate.policy.Explanation` names it.
_NOT_ASKED: Final = frozenset({"unknown_action", "missing_resource", "wrong_kind", "malformed_input"})
_RESOURCE: Final = "'kind:id', 'kind', or None for any"


class Asked(msgspec.Struct, frozen=True):
    """A question, and the answer that it got."""

    input: PolicyInput
    result: PolicyResult

    @property
    def allowed(self) -> bool:
        """Whether the answer was an allow."""
        return self.result == ALLOW

    @property
    def question(self) -> str:
        """In one line: ``db.write sql_query:insert_order``."""
        resource = self.input.resource
        if resource is None:
            return self.input.action
        return f"{self.input.action} {resource.kind}" + ("" if resource.id is None else f":{resource.id}")


class _Told(msgspec.Struct, frozen=True):
    """What a test said about some questions."""

    action: str
    resource: str | None
    result: PolicyResult

    def is_about(self, input: PolicyInput) -> bool:
        if self.action not in ("*", input.action):
            return False
        return self.resource is None or self.resource in _names(input.resource)


def _names(resource: Resource | None) -> tuple[str, ...]:
    if resource is None:
        return ()
    return (resource.kind,) if resource.id is None else (resource.kind, f"{resource.kind}:{resource.id}")


def _as_it_is(input: PolicyInput) -> PolicyInput:
    """Return the question as it is now: who asks may use its mappings again, with other facts."""
    try:
        return copy.deepcopy(input)
    except Exception:  # of what is no question
        return input


class _Recording(RuntimePolicy):
    """A document's judgement behind what the test said, with notes."""

    def __init__(self, document: Document, sha256: str) -> None:
        super().__init__(document, sha256)
        self.asked: list[Asked] = []
        self.told: list[_Told] = []

    def evaluate(self, input: PolicyInput) -> PolicyResult:
        result = self._answer(input)
        self.asked.append(Asked(_as_it_is(input), result))
        return result

    def _answer(self, input: PolicyInput) -> PolicyResult:
        explanation = self.base().explain(input)
        if explanation.by not in _NOT_ASKED:
            for told in reversed(self.told):
                if told.is_about(input):
                    return told.result
        return explanation.result

    def base(self) -> RuntimePolicy:
        """Return what answers where the test said nothing. It notes nothing: only ``evaluate`` does."""
        return self


class _Permissive(_Recording):
    """Allows what any document could: every section, and every action that the application has registered by now."""

    def __init__(self, document: Document, sha256: str) -> None:
        super().__init__(document, sha256)
        self._names: frozenset[str] = frozenset()
        self._base: RuntimePolicy = self  # until it is asked

    def base(self) -> RuntimePolicy:
        if VOCABULARY.names is not self._names:
            self._names, self._base = VOCABULARY.names, RuntimePolicy.from_document(_everything())
        return self._base


def _everything() -> dict[str, Any]:
    """Make a document that admits whatever one can: every section, and every action that the application registered."""
    own = sorted(VOCABULARY.names - _BUILTIN)
    return {
        "name": "recorded",
        **{section: "any" for section in SECTIONS if section != "actions"},
        "actions": dict.fromkeys(own, "any"),
    }


class _EveryAction(frozenset[str]):
    """Every action: the recording one wants to see unknown ones, too."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)


class _Optional(frozenset[str]):
    """The actions that need no resource, as the application registered them by now; unknown ones are the policy's."""

    def __contains__(self, name: object) -> bool:
        return name in VOCABULARY.optional or name not in VOCABULARY.names


class _Everything(Vocabulary):
    def __init__(self) -> None:
        super().__init__()
        self.names, self.optional = _EveryAction(), _Optional()


class RecordedGate(LocalPolicyChecker):
    """A checker for tests: notes each question, and answers as told, or else as ``document`` does.

    Without a document it allows what any policy could allow. Questions that no policy can be asked are denied as ever:
    an action that nobody registered is one, a resource that is missing another.

    To be passed as ``checker``, or put into an application that is there already with :meth:`replacing`.
    """

    def __init__(self, document: dict[str, Any] | None = None) -> None:
        recording, given = (_Permissive, _everything()) if document is None else (_Recording, document)
        self._recording = cast("_Recording", recording.from_document(given))
        super().__init__(self._recording, limits=PATIENT, vocabulary=_Everything())

    @property
    def asked(self) -> list[Asked]:
        """The questions so far, each with its answer."""
        return list(self._recording.asked)

    @property
    def questions(self) -> list[str]:
        """The questions so far, each as ``action kind:id``."""
        return [asked.question for asked in self._recording.asked]

    @property
    def denied(self) -> list[str]:
        """Those of :attr:`questions` that were denied."""
        return [asked.question for asked in self._recording.asked if not asked.allowed]

    def deny(self, action: str = "*", resource: str | None = None, reason: str = Reason.NOT_IN_ALLOWLIST) -> None:
        """Deny ``action`` (``"*"``: every one) on ``resource`` from now on.

        The latter is ``"kind:id"``, ``"kind"``, or ``None`` for whatever is asked. Of what was told, the last that fits
        counts.
        """
        self._tell(action, resource, Deny(reason))

    def allow(self, action: str = "*", resource: str | None = None) -> None:
        """Allow that from now on. No allow makes an unknown action known."""
        self._tell(action, resource, ALLOW)

    def forget(self) -> None:
        """Forget the questions so far; what was told stays."""
        self._recording.asked.clear()

    def _tell(self, action: str, resource: str | None, result: PolicyResult) -> None:
        # A slip of the pen would deny nothing, and the test that relies on it would be about nothing.
        known = self._recording.base().actions
        if action != "*" and action not in known:
            raise ConfigError("action", action, "'*', or a known action: " + ", ".join(sorted(known)))
        kind = None if action == "*" else known[action].kind
        seen = resource.partition(":")[0] if isinstance(resource, str) else None
        if resource is not None and (not seen or kind not in (None, seen)):
            raise ConfigError("resource", resource, _RESOURCE if kind is None else f"{_RESOURCE}, of the kind {kind!r}")
        self._recording.told.append(_Told(action, resource, result))

    @contextmanager
    def replacing(self, app: Any) -> Iterator[RecordedGate]:
        """Make this the checker of ``app`` until the end of the ``with``.

        ``app`` is a Starlette or FastAPI application with a :class:`CapabilityMiddleware`. Its settings stay, but for
        those that describe another checker, and a contract, which names another policy. Raises :class:`ConfigError`
        where there is no such middleware.
        """
        before, stack = list(getattr(app, "user_middleware", ())), getattr(app, "middleware_stack", None)
        after = [self._replaced(middleware) for middleware in before]
        if all(old is new for old, new in zip(before, after, strict=True)):
            raise ConfigError("app", type(app).__name__, "an application to which CapabilityMiddleware was added")
        app.user_middleware[:], app.middleware_stack = after, None
        try:
            yield self
        finally:
            app.user_middleware[:], app.middleware_stack = before, stack

    def _replaced(self, middleware: Any) -> Any:
        added = middleware.cls
        if not (isinstance(added, type) and issubclass(added, CapabilityMiddleware)):
            return middleware
        options = {**middleware.kwargs, "checker": self}
        settings = options.get("settings") or Settings.from_env()
        options["settings"] = msgspec.structs.replace(settings.without_checker(), contract=None)
        return type(middleware)(added, *middleware.args, **options)


def make_checker(
    document: dict[str, Any], engine: str = "local", limits: Limits = PATIENT
) -> LocalPolicyChecker | WasmPolicyChecker:
    """Make a checker that answers as ``document`` says.

    It does so in Python (``"local"``), or as a module on ``"wasmer"``, ``"wasmtime"`` or ``"auto"``, whichever imports.
    Raises what :class:`RuntimePolicy` and :class:`WasmPool` raise.
    """
    policy = RuntimePolicy.from_document(document)
    if engine == "local":
        return LocalPolicyChecker(policy, limits=limits)
    return WasmPolicyChecker(WasmPool(WasmArtifact.from_bytes(build_policy(policy)), 2, engine, limits))
