"""Provides what the guest may call: ``opa_abort``, ``opa_println`` and the builtins that the policy needs.

Every one of them looks at the clock before and after, because their work costs no fuel. A question that has taken more
processor time than ``limits.deadline`` ends with :class:`PolicyTimeout`; time in which its thread did not run is not
its fault. They are there for questions only, and not while the
guest is loaded. Whatever goes wrong raises, which ends the question; and ``failed`` stays set, so that no answer counts
that comes afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic, thread_time
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from ....errors import AbiError, PolicyTimeout, PolicyTrap
from ....limits import Limits
from ...engine import HostFunction, HostImport, HostMemory
from .interface import ABORT, FUNCTIONS, MEMORY, MODULE, PRINTLN, ModuleFacts

if TYPE_CHECKING:  # the builtins bring libraries along, which take longer to import than all the rest
    from ....rego import Builtin, Context

#: Bytes of a message that is passed on in an error.
MESSAGE: Final = 200
#: Python's frames that have to fit on the stack below whoever asks the guest. Less than half of them are needed until a
#: function of the host, called from within another one, is where what goes wrong is caught; each takes 100 ns.
FRAMES: Final = 40


class Values(Protocol):
    """What the host needs of the guest that calls it."""

    def text_at(self, pointer: int, limit: int) -> bytes:
        """Return the bytes before the next zero."""

    def dumped(self, value: int) -> bytes:
        """Return the text of a value."""

    def parsed(self, text: bytes) -> int:
        """Return the value with this text."""


def require_room(frames: int = FRAMES) -> None:
    """Raise ``RecursionError`` where the stack is nearly full, before the guest may call a function of the host.

    A function that cannot even begin, because there is no room for its frame, raises where nobody catches it. Then
    ``ctypes`` prints what was raised, and gives the engine whatever lies in memory for an answer.
    """
    if frames:
        require_room(frames - 1)


class Host:
    """The host's side of one instance."""

    def __init__(self, limits: Limits) -> None:
        self.failed = False
        self._busy = False
        self._deadline = limits.deadline
        self._limit = limits.input_bytes
        self._builtins: Mapping[int, Builtin] = {}
        self._guest: Values | None = None
        self._loading: Values | None = None
        self._until = self._processor_until = 0.0
        self._timestamp = 0
        self._context: Context | None = None

    def imports(self, facts: ModuleFacts, minimum: int, maximum: int) -> list[HostImport]:
        """Return what the module imports, in its order. Sizes of the memory are in pages."""
        imports: list[HostImport] = []
        for name in facts.imports:
            if name == MEMORY:
                imports.append(HostMemory(MODULE, MEMORY, minimum, maximum))
                continue
            call = {ABORT: self._abort, PRINTLN: self._println}.get(name, self._builtin)
            imports.append(HostFunction(MODULE, name, *FUNCTIONS[name], call))
        return imports

    @property
    def is_asked(self) -> bool:
        """Whether a question is being answered."""
        return self._guest is not None

    def provide(self, builtins: Mapping[int, Builtin]) -> None:
        """Provide these builtins from now on, by the numbers that the guest gave them."""
        self._builtins = builtins

    def begin(self, guest: Values, timestamp: int) -> None:
        """Begin a question; ``timestamp`` is what builtins take for the time. Raises ``RecursionError`` where there is
        no room for them on the stack."""
        require_room()
        self._guest = guest  # first: from here on, nobody else may ask
        self._until = 0.0  # set at the first call: what the guest does by itself, fuel bounds
        self._timestamp, self._context = timestamp, None

    def end(self) -> None:
        """End a question, or loading: the guest is not kept, and may call nothing."""
        self._guest = self._loading = None

    def begin_loading(self, guest: Values) -> None:
        """Begin loading. The guest may call nothing yet; but if it aborts, its message can be read. Raises what
        :meth:`begin` does."""
        require_room()
        self._loading = guest

    def _raise(self, error: Exception) -> NoReturn:
        self.failed = True
        raise error

    def _asked(self) -> Values:
        """Return the guest, if a question is being answered, and in time."""
        guest = self._guest
        if guest is None or self._busy:
            self._raise(AbiError("host_call", "not while a question is evaluated"))
        if not self._until:
            self._until = monotonic() + self._deadline
            self._processor_until = thread_time() + self._deadline
        self._in_time()
        return guest

    def _in_time(self) -> None:
        if monotonic() > self._until and thread_time() > self._processor_until:
            message = f"not answered within {self._deadline:g} s of processor time, builtins included"
            self._raise(PolicyTimeout(message, limit="deadline"))

    def _abort(self, pointer: int) -> NoReturn:
        """Serve ``opa_abort``: the policy cannot go on, and must not."""
        self.failed = True
        raise PolicyTrap("abort", self._message(pointer))

    def _message(self, pointer: int) -> str:
        guest = self._guest or self._loading
        if guest is None:
            return "before it was loaded"
        try:
            text = guest.text_at(pointer, MESSAGE).decode("utf-8", "backslashreplace")
            return text if text.isascii() and text.isprintable() else ascii(text)  # the guest's, and may go to a log
        except AbiError as error:
            return f"without a message: {error}"

    def _println(self, pointer: int) -> None:
        """Serve ``opa_println``. What a policy prints may be anybody's secret, so it goes nowhere."""
        self._asked()

    def _builtin(self, number: int, reserved: int, *arguments: int) -> int:
        """Serve ``opa_builtinN``. Returns the address of the result, 0 where it is undefined."""
        guest = self._asked()
        # Until this one is done the guest is called only to read and to write values, and none of that needs a builtin.
        self._busy = True
        try:
            result = self._result(guest, number, arguments)
        except BaseException:
            self.failed = True
            raise
        finally:
            self._busy = False
        self._asked()
        return result

    def _result(self, guest: Values, number: int, arguments: tuple[int, ...]) -> int:
        from ....rego import Context, Undefined
        from ....rego.value_text import dump, parse

        builtin = self._builtins.get(number)
        if builtin is None:
            raise AbiError("builtin_unknown", f"number {number}; there are {sorted(self._builtins)}")
        if len(arguments) != builtin.arity:
            raise AbiError("builtin_arity", f"{builtin.name} takes {builtin.arity} arguments, not {len(arguments)}")
        left = self._limit
        values = []
        for argument in arguments:
            text = guest.dumped(argument)
            left -= len(text)
            if left < 0:
                raise AbiError("builtin_size", f"{builtin.name} gets more than {self._limit} bytes")
            values.append(parse(text, self._in_time))
        if self._context is None:
            self._context = Context(self._timestamp)
        try:
            result = dump(builtin.call(self._context, *values))
        except Undefined:
            return 0
        if len(result) > self._limit:
            raise AbiError("builtin_size", f"{builtin.name} gives {len(result)} bytes, the limit is {self._limit}")
        return guest.parsed(result)
