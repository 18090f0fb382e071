"""Makes of an artifact live instances that answer: prepares once, compiles once per engine, instantiates per use.

``PreparedPolicy`` is a verified module at rest, ``CompiledPolicy`` the same inside an engine, and
:class:`WasmInterpreter` one live instance behind the policy ABI, for one thread and one call at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

import msgspec

from ..artifact.load import OPA, WasmArtifact
from ..errors import (
    CapgateError,
    ConfigError,
    MalformedInput,
    PolicyError,
    PolicyTimeout,
    PolicyTrap,
    PolicyUnavailable,
    RestrictedModule,
    ends_task,
)
from ..limits import Limits
from ..model import ONLY_ENTRYPOINT, Entrypoint, PolicyInfo, PolicyInput, PolicyResult
from ..wasm import Loading, Metered, Module, encode, meter, without_custom
from ..wasm.metering.charges import OUT_OF_FUEL, TOO_DEEP
from ..wasm.state import leaves_state
from .abi import canonical_abi, fixed, opa
from .abi.memory_image import MemoryImage
from .abi.reactor import initialize, initializer
from .engine import CompiledModule, Engine, Instance, compile_in_child, is_small, load_engine

#: No cancellation is among them, as in :func:`~capgate.errors.ends_task`: none arrives in a call that never awaits, so
#: what looks like one is a fault of the engine.
_ENDINGS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)
#: Pages of memory that are restored at most: some 60 microseconds, which is what an instance takes at the least.
RESTORED_PAGES: Final = 64
#: What says how much fuel a call has.
FUEL_SETTING: Final = "Limits(fuel=...), or CAPGATE_FUEL"
_SPENT_LOADING: Final = f"fuel while it was loaded, for which there is more with more for a call: {FUEL_SETTING}"
_NO_ENTRYPOINT: Final = f"none with a module of {canonical_abi.PLAIN.name}: those that OPA compiled have entry points"


_Guest = TypeVar("_Guest", bound=opa.Guest)


class PreparedPolicy:
    """An artifact that passed every check that needs no engine, rewritten so that it pays fuel. May be shared by
    threads.

    ``original`` is the module as it was but for its custom sections, of which nothing is run, and which no engine gets.
    ``metered`` is the one that runs: there is no way to run the other. ``pure``
    says that an answer cannot depend on earlier questions, so that an instance may be used again. That is so where the
    bytes are those which capgate's own build gives, and where the whole state of an instance can be restored.
    ``restores`` says that this is done before each question, so that what was used is as good as new, and has to be
    looked at after each answer. Only capgate's own modules are known to be easy to compile. ``compilable_with`` are the
    engines that are known to compile it within the limits.

    The artifact's decoded form is used and let go of.

    ``restore`` says that nobody has given their word for a module that it keeps no state by itself.

    ``limits`` are the given ones, and what such a module has where none was given.

    ``interface`` is the version by which a module of capgate's interface is asked.

    ``entrypoint`` is for modules of OPA's ABI, of which ``facts`` says more. The one that a manifest says cannot be
    contradicted. Raises :class:`~capgate.errors.WasmError` where the module is malformed, or exports another interface
    than the policy's; :class:`~capgate.errors.ConfigError` for an entry point of a module that has none to choose from.
    """

    def __init__(
        self,
        artifact: WasmArtifact,
        limits: Limits,
        entrypoint: Entrypoint = ONLY_ENTRYPOINT,
        *,
        restore: bool = True,
    ) -> None:
        module = without_custom(artifact.decoded)
        self.artifact = artifact
        self.limits = limits.resolved(rego=artifact.abi == OPA, built=artifact.is_built, facts=bool(artifact.spoken))
        self.entrypoint = artifact.asked(entrypoint)
        self.original = artifact.module
        if len(module.sections) < len(artifact.decoded.sections):
            self.original = encode(module)
        self.facts: opa.ModuleFacts | None = None
        # Of these bytes it is known what they cost to compile. Being of OPA's ABI, and thus pure, says nothing of that.
        self.is_own = artifact.is_built
        self._image: MemoryImage | None = None
        self.interface = canonical_abi.PLAIN
        self.has_post = self.takes_one_block = False
        self.initializer: str | None = None
        if artifact.abi == OPA:
            self.metered: Metered = self._prepare_opa(module, limits)
        else:
            self.metered = self._prepare_own(module, restore)
        artifact.let_go()
        self.compilable_with: set[str] = set()
        self._code: dict[str, bytes] = {}

    def _prepare_own(self, module: Module, restore: bool) -> Metered:
        if self.entrypoint.name is not None:
            raise ConfigError("entrypoint", self.entrypoint.name, _NO_ENTRYPOINT)
        if self.entrypoint.result != ONLY_ENTRYPOINT.result:
            raise ConfigError("entrypoint_result", self.entrypoint.result, _NO_ENTRYPOINT)
        interface = self.interface = canonical_abi.interface_of(module)
        self.initializer = initializer(module)
        self.restores = restore and not self.is_own and _is_restorable(module)
        self.pure = self.is_own or self.restores
        self.has_post = module.export(interface.post) is not None
        self.takes_one_block = module.export(canonical_abi.ONE_BLOCK) is not None
        first = () if self.initializer is None else (self.initializer,)
        facts = (fixed.FACTS_CHECK,) if self.artifact.spoken else ()
        entries = (interface.check, canonical_abi.REALLOC, *facts, *first)
        return meter(module, self.limits, entries=entries, keeps_state=self.restores)

    def _prepare_opa(self, module: Module, given: Limits) -> Metered:
        self.facts = opa.check_module(module)
        if not self.facts.restorable:  # each question touches its memory anew; OPA compiles nothing of the kind
            self.limits = msgspec.structs.replace(self.limits, memory_pages=given.most_pages)
        if self.facts.memory.minimum > self.limits.most_pages:
            detail = f"it needs {self.facts.memory.minimum}, the limit is {self.limits.most_pages}"
            raise RestrictedModule("memory_pages", "memory 0", detail)
        self.pure, self.restores = self.facts.restorable, True
        fuel = opa.loading_fuel(self.limits, module, len(self.artifact.rego_data))
        first = () if self.facts.initializer is None else (self.facts.initializer,)
        loading = Loading(fuel, frozenset({opa.LOADING, *first}))
        return meter(
            module,
            self.limits,
            entries=(*opa.ENTRIES, *first),
            imports=opa.IMPORTS,
            loading=loading,
            keeps_state=True,
        )

    def compile_in_child(self, engine: Engine) -> None:
        """Make sure, once, that ``engine`` can compile this within the limits, and block meanwhile.

        A child process compiles it, unless it is small, or capgate's own code. Raises what
        :func:`capgate.runtime.engine.compile_in_child` raises.
        """
        if engine.name in self.compilable_with:
            return
        if not self.is_own and not is_small(self.metered.data):
            code = compile_in_child(engine, self.original, self.metered.data, self.limits)
            if code:
                self._code[engine.name] = code
        self.compilable_with.add(engine.name)

    def compile(self, engine: Engine) -> CompiledModule:
        """Compile this, or load what the child has compiled. Raises :class:`~capgate.errors.RestrictedModule`."""
        # Both, because a module that is invalid must not become valid by being rewritten.
        engine.validate(self.original)
        # Other threads need it again where modules belong to threads.
        code = self._code.get(engine.name) if engine.thread_bound else self._code.pop(engine.name, None)
        return engine.compile(self.metered.data) if code is None else engine.load(code)

    def image_of(self, memory: memoryview) -> MemoryImage:
        """Return what ``memory`` holds, if possible the image of an earlier instance: with much data, each needs
        less."""
        known = self._image
        if known is None or not known.is_of(memory):
            known = self._image = MemoryImage(memory)
        return known

    def info(self, engine: str) -> PolicyInfo:
        """Name the policy and ``engine``."""
        return self.artifact.info(engine)


def _is_restorable(module: Module) -> bool:
    """Say whether memory and globals are all that an instance of ``module`` can remember, and setting them back takes
    less than making another instance."""
    small = all(memory.minimum <= RESTORED_PAGES for memory in module.all_memories())
    return small and not module.imports and not leaves_state(module)


class CompiledPolicy:
    """A prepared policy compiled by one engine. Where ``engine.thread_bound``, it belongs to the thread that made
    it. Raises what :meth:`PreparedPolicy.compile_in_child` raises, unless that was called before."""

    def __init__(self, prepared: PreparedPolicy, engine: Engine) -> None:
        self.prepared = prepared
        self.engine = engine
        prepared.compile_in_child(engine)
        self.module: CompiledModule = prepared.compile(engine)

    def instantiate(self) -> WasmInterpreter:
        """Make an instance. Raises :class:`~capgate.errors.PolicyError` where the guest's start code traps.

        Of a module of OPA's ABI also raises :class:`~capgate.errors.ConfigError` where it has no such entry point, and
        :class:`~capgate.errors.RestrictedModule` where it needs builtins that there are not.
        """
        return WasmInterpreter.of(self)

    def listing(self) -> opa.Listing:
        """Ask a module of OPA's ABI what it says of itself, by an instance that is not asked anything else. Raises
        :class:`~capgate.errors.PolicyError` where it cannot say, ``TypeError`` for a module of another interface."""
        prepared = self.prepared
        if prepared.facts is None:
            raise TypeError("not a module of OPA's ABI")
        return self.load(opa.Listing(self.module, prepared.facts, prepared.limits, prepared.metered))

    def load(self, guest: _Guest) -> _Guest:
        """Load ``guest``, an instance of this. Raises why it cannot be loaded."""
        try:
            guest.load(self.prepared.artifact.rego_data)
        except BaseException as error:
            if ends_task(error):
                raise
            exhausted = self.status(guest.instance)
            del guest
            if isinstance(error, CapgateError) and not isinstance(error, PolicyTrap):
                raise
            self.explain(error, exhausted, _SPENT_LOADING)
            raise
        return guest

    def initialized(self) -> Instance:
        """Make an instance of a module of capgate's interface, whose initializer has run. Raises why there is none."""
        instance = self.module.instantiate()
        try:
            initialize(instance, self.prepared.metered, self.prepared.initializer)
        except BaseException as error:
            if ends_task(error):
                raise
            exhausted = self.status(instance)
            del instance
            self.explain(error, exhausted, _SPENT_LOADING)
            raise
        return instance

    def explain(self, error: BaseException, exhausted: int, spent: str) -> None:
        """Raise what ``error`` means, where it is not a trap that says so itself; ``spent`` is what may be used up."""
        if exhausted == OUT_OF_FUEL:
            raise PolicyTimeout(f"out of {spent}") from error
        if exhausted == TOO_DEEP:
            raise PolicyTrap("stack_overflow", "too deep") from error
        if not isinstance(error, PolicyTrap):
            raise self.engine.explain(error) from error

    def status(self, instance: Instance | None) -> int:
        """Ask ``instance`` whether the metering ended its call. 0 where it did not, or cannot say."""
        if instance is None:
            return 0
        try:
            return instance.function(self.prepared.metered.status, 0, 1)()
        except BaseException as error:
            if ends_task(error):
                raise
            return 0


class WasmInterpreter:
    """One live instance of a policy: ``call_policy_check(input)`` gives its answer or raises why there is none.

    ``engine`` is ``"auto"``, ``"wasmer"`` or ``"wasmtime"``; ``entrypoint`` is for modules that OPA compiled. Raises
    :class:`~capgate.errors.WasmError`, :class:`~capgate.errors.ConfigError` or
    :class:`~capgate.errors.EngineUnavailable` when the artifact cannot run here. To be used, and dropped, on the thread
    that made it.

    ``uses`` counts the questions. ``broken`` is set after a trap, a timeout or a broken ABI, and such an instance
    answers no more.
    """

    __slots__ = ("_call", "_compiled", "_fuel_left", "_guest", "_instance", "ask", "broken", "prepared", "uses")

    def __init__(
        self,
        artifact: WasmArtifact,
        *,
        engine: str = "auto",
        limits: Limits | None = None,
        entrypoint: Entrypoint = ONLY_ENTRYPOINT,
    ) -> None:
        self._bind(CompiledPolicy(PreparedPolicy(artifact, limits or Limits(), entrypoint), load_engine(engine)))

    @classmethod
    def of(cls, compiled: CompiledPolicy) -> WasmInterpreter:
        """Make an instance of ``compiled``. Raises what :meth:`CompiledPolicy.instantiate` raises."""
        interpreter = cls.__new__(cls)
        interpreter._bind(compiled)
        return interpreter

    def _bind(self, compiled: CompiledPolicy) -> None:
        self._compiled = compiled
        prepared = self.prepared = compiled.prepared
        limits, metered, facts = prepared.limits, prepared.metered, prepared.facts
        self._guest: opa.Guest | None = None
        self._call: canonical_abi.CanonicalCall | None = None
        self.ask: canonical_abi.Ask
        if facts is not None:
            guest = opa.Guest(compiled.module, facts, limits, metered, prepared.entrypoint, image_of=prepared.image_of)
            self._guest = compiled.load(guest)
            instance, self.ask = guest.instance, guest.ask
        else:
            instance = compiled.initialized()
            if prepared.is_own:
                self.ask = fixed.fixed_call(instance, limits, metered.entries, prepared.artifact.spoken)
            else:
                call = canonical_abi.CanonicalCall(
                    instance,
                    limits,
                    metered,
                    prepared.interface,
                    has_post=prepared.has_post,
                    one_block=prepared.takes_one_block,
                    image_of=prepared.image_of if prepared.restores else None,
                )
                self._call, self.ask = call, call.ask
        self._instance: Instance | None = instance
        self._fuel_left: Callable[[], int] | None = None
        self.uses = 0
        self.broken = False

    @property
    def spent(self) -> bool:
        """Whether this answered, and is not to be asked again though the policy is pure: its memory grew."""
        asked = self._guest or self._call
        return asked is not None and asked.grown

    @property
    def fuel_spent(self) -> int:
        """The fuel that the last question took: all of it, where the guest cannot be asked any more."""
        all_of_it = self.prepared.limits.call_fuel
        try:
            if self._fuel_left is None:
                if self._instance is None:
                    return all_of_it
                self._fuel_left = self._instance.number(self.prepared.metered.fuel)
            return all_of_it - self._fuel_left()
        except BaseException as error:
            if ends_task(error):
                raise
            return all_of_it

    def call_policy_check(self, input: PolicyInput) -> PolicyResult:
        """Ask the guest. Raises :class:`~capgate.errors.PolicyError`: malformed input leaves the instance fit for use,
        anything else breaks it."""
        self.uses += 1
        try:
            return self.ask(input)
        except BaseException as error:
            self.fail(error)

    def fail(self, error: BaseException) -> NoReturn:
        """Raise what ``error`` means, which ``ask`` raised, and answer no more unless it was malformed input.

        :meth:`call_policy_check` consists of a count, ``ask`` and this; the pool does the same without its frame.
        """
        try:
            if isinstance(error, MalformedInput):
                raise error
            instance, self._instance = self._instance, None
            self.broken, self.ask, self._guest, self._call, self._fuel_left = True, _ask_no_more, None, None, None
            if isinstance(error, _ENDINGS):
                raise error
            if isinstance(error, PolicyError) and not isinstance(error, PolicyTrap):
                raise error
            exhausted = self._compiled.status(instance)
            # Neither is kept in a variable: the error's traceback has this frame, and the cycle would keep the dead
            # instance until a garbage collection, which may happen on a thread where it must not be dropped.
            del instance
            spent = f"fuel, of which a call has {self.prepared.limits.call_fuel} by {FUEL_SETTING}"
            self._compiled.explain(error, exhausted, spent)
            raise error
        finally:
            del error

    @property
    def info(self) -> PolicyInfo:
        """The policy that this asks, and the engine."""
        return self.prepared.info(self._compiled.engine.name)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a WasmInterpreter holds engine objects of this process; build one where it is used")

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce__()


def _ask_no_more(input: PolicyInput) -> NoReturn:
    raise PolicyUnavailable("this instance trapped or broke the ABI before; make a new one")
