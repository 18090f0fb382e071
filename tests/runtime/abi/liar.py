"""A guest that does what it is told, however wrong, and what an honest host must make of it.

The guest is one module; ``tell(number, value)`` sets how it behaves, so that thousands of lies cost no compilation.
:func:`judge` derives the one right outcome from a simulation of memory. It shares no code with ``capgate.runtime.abi``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from capgate.limits import Limits
from capgate.model import Anonymous, CompilerTool, PolicyInput, Service, User
from capgate.runtime.abi.canonical_abi import PLAIN, Interface
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter

from ...support.guests import HEAP, PAGE, REASON, RESULT, artifact, data, guest

#: The most calls of ``cabi_realloc``: one for each string and list, and the last for the record.
CALLS: Final = 24
TEXT: Final = "no, because \u00e9\u20ac\U0001d11e".encode()
LIMITS: Final = Limits(output_bytes=64)

_ACTORS: Final[dict[type, int]] = {Anonymous: 0, User: 1, Service: 2, CompilerTool: 3}
_RESULT_FIELDS: Final = ("record_at", "discriminant", "reason", "length", "result", "grows_in_check", "traps_in_check")
_POST_TRAPS: Final = 3 * CALLS + len(_RESULT_FIELDS)


@dataclass(frozen=True)
class Liar:
    """How the guest behaves. The defaults are honest, and allow.

    ``pointers``    call of ``cabi_realloc`` -> what it gives in place of free memory
    ``grows``       call of ``cabi_realloc`` -> pages by which it grows memory
    ``record_at``   where ``policy-check`` writes its result record: ``discriminant``, ``reason``, ``length``
    ``result``      what it returns
    """

    pointers: dict[int, int] = field(default_factory=dict)
    grows: dict[int, int] = field(default_factory=dict)
    record_at: int = RESULT
    discriminant: int = 0
    reason: int = REASON
    length: int = len(TEXT)
    result: int = RESULT
    grows_in_check: int = 0
    traps_in_check: int = 0
    traps_in_post: int = 0

    def but(self, **changes: int) -> Liar:
        return replace(self, **changes)  # type: ignore[arg-type]


def _chain(local: str, cases: list[tuple[int, str]]) -> str:
    return "".join(f"(if (i32.eq (local.get {local}) (i32.const {value})) (then {body}))" for value, body in cases)


def _module(interface: Interface) -> bytes:
    count = _POST_TRAPS + 1
    told = [(index, f"(global.set $p{index} (local.get $value))") for index in range(count)]
    steps = [
        (
            call,
            f"(if (global.get $p{3 * call + 2}) (then (drop (memory.grow (global.get $p{3 * call + 2})))))"
            f"(if (global.get $p{3 * call}) (then (return (global.get $p{3 * call + 1}))))",
        )
        for call in range(CALLS)
    ]
    at, discriminant, reason, length, result, grows, traps = (
        f"(global.get $p{index})" for index in range(3 * CALLS, _POST_TRAPS)
    )
    extra = (
        "".join(f"(global $p{index} (mut i32) (i32.const 0))" for index in range(count))
        + "(global $calls (mut i32) (i32.const -1))"
        + f'(func (export "tell") (param $index i32) (param $value i32) {_chain("$index", told)})'
        + data(REASON, TEXT)
    )
    realloc = f"""(func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
        (local $call i32)
        (local.set $call (global.get $calls))
        (global.set $calls (i32.add (local.get $call) (i32.const 1)))
        {_chain("$call", steps)}
        (call $bump (local.get $align) (local.get $size)))"""
    check = f"""(i32.store {at} {discriminant}) (i32.store offset=4 {at} {reason}) (i32.store offset=8 {at} {length})
        (if {grows} (then (drop (memory.grow {grows})))) (if {traps} (then unreachable)) {result}"""
    post = f"(if (global.get $p{_POST_TRAPS}) (then unreachable))"
    return guest(check, realloc=realloc, post=post, extra=extra, interface=interface)


class Liars:
    """Makes interpreters whose guest has been told how to behave, on one engine."""

    def __init__(self, engine_name: str, interface: Interface = PLAIN, limits: Limits = LIMITS) -> None:
        prepared = PreparedPolicy(artifact(_module(interface)), limits)
        self._compiled = CompiledPolicy(prepared, load_engine(engine_name))

    def __call__(self, liar: Liar) -> WasmInterpreter:
        interpreter = self._compiled.instantiate()
        instance = interpreter._instance
        assert instance is not None
        # A call before the first: it begins with the fuel that `tell` then spends.
        instance.function(interpreter.prepared.metered.entries["cabi_realloc"], 4, 1)(0, 0, 1, 0)
        tell = instance.function("tell", 2, 0)
        for call in range(CALLS):
            if call in liar.pointers:
                tell(3 * call, 1)
                tell(3 * call + 1, liar.pointers[call])
            tell(3 * call + 2, liar.grows.get(call, 0))
        for number, name in enumerate(_RESULT_FIELDS):
            tell(3 * CALLS + number, getattr(liar, name))
        tell(_POST_TRAPS, liar.traps_in_post)
        return interpreter


Outcome = tuple[str, object]


def judge(liar: Liar, input: PolicyInput, interface: Interface = PLAIN, limits: Limits = LIMITS) -> Outcome:
    """``("allow", None)``, ``("deny", text)``, ``("trap", kind)``, or ``("abi", rules)``, any of which may be named."""
    asked = encode(input, interface)
    pointers, size = layout(liar, asked)
    parts = asked.at(pointers)
    spans = [(p, p + len(part)) for p, part in zip(pointers, parts, strict=True)]
    broken = _allocation_rules(spans, [p % align for p, (align, _) in zip(pointers, asked.calls, strict=True)], size)
    if broken:
        return "abi", broken
    memory = bytearray(size + liar.grows_in_check * PAGE)
    memory[REASON : REASON + len(TEXT)] = TEXT
    for pointer, part in zip(pointers, parts, strict=True):
        memory[pointer : pointer + len(part)] = part
    if liar.record_at + 12 > size:
        return "trap", "memory_out_of_bounds"
    struct.pack_into("<III", memory, liar.record_at, liar.discriminant, liar.reason, liar.length)
    if liar.traps_in_check:
        return "trap", "unreachable"
    answer = _answer(liar.result, memory, [span for span in spans if span[0] < span[1]], limits)
    return ("trap", "unreachable") if liar.traps_in_post and answer[0] in ("allow", "deny") else answer


#: A word of a record: a number, or the number of a text or list whose address is put there.
Word = tuple[str, int]


class Asked:
    """What is allocated for a question: its texts, its lists and its record, each word by word."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.lists: list[tuple[int, list[Word]]] = []
        self.record: list[Word] = []

    @property
    def calls(self) -> list[tuple[int, int]]:
        """Alignment and size of each allocation."""
        lists = [(align, 4 * len(words)) for align, words in self.lists]
        return [*((1, len(text)) for text in self.texts), *lists, (8, 4 * len(self.record))]

    def at(self, pointers: list[int]) -> list[bytes]:
        """The content of each allocation."""
        where = {"number": None, "text": pointers, "list": pointers[len(self.texts) :]}

        def packed(words: list[Word]) -> bytes:
            numbers = [value if where[what] is None else where[what][value] for what, value in words]  # type: ignore[index]
            return struct.pack(f"<{len(numbers)}I", *numbers)

        return [*self.texts, *(packed(words) for _, words in self.lists), packed(self.record)]

    def text(self, value: str) -> list[Word]:
        self.texts.append(value.encode())
        return [("text", len(self.texts) - 1), *numbers(len(self.texts[-1]))]

    def list_of(self, align: int, items: Iterable[Any], write: Callable[[Any], list[Word]]) -> list[Word]:
        number, words, count = len(self.lists), list[Word](), 0
        self.lists.append((align, words))
        for item in items:
            words += write(item)
            count += 1
        return [("list", number), *numbers(count)]

    def option(self, value: str | None, *, always: bool) -> list[Word]:
        """In 0.1.0 what is absent has an allocation as well."""
        words = self.text(value or "") if always or value is not None else numbers(0, 0)
        return [*numbers(value is not None), *words]

    def attribute(self, item: tuple[str, Any]) -> list[Word]:
        name, value = item
        case = [bool, int, float, str, list].index(type(value))
        words = [*self.text(name), *numbers(case, 0)]
        if case < 3:
            packed = struct.pack(("<?7x", "<q", "<d")[case], value)
            return [*words, *numbers(*struct.unpack("<2I", packed))]
        return words + (self.text(value) if case == 3 else self.list_of(4, value, self.text))

    def attributes(self, mapping: Any) -> list[Word]:
        return self.list_of(8, mapping.items(), self.attribute)

    def actor(self, actor: Any) -> list[Word]:
        if isinstance(actor, Anonymous):
            return numbers(*([0] * 9))
        words = [*numbers(_ACTORS[type(actor)]), *self.text(actor.id)]
        words += self.list_of(4, actor.roles, self.text)
        words += self.list_of(4, actor.scopes, self.text)
        return words + self.attributes(actor.attributes)


def numbers(*values: int) -> list[Word]:
    return [("number", value) for value in values]


def encode(input: PolicyInput, interface: Interface = PLAIN) -> Asked:
    """What is allocated for ``input``."""
    asked, resource = Asked(), input.resource
    stamp = numbers(input.timestamp % 2**32, input.timestamp >> 32)
    kind, id = ("", None) if resource is None else (resource.kind, resource.id)
    if interface is PLAIN:
        who = "" if isinstance(input.actor, Anonymous) else input.actor.id
        words = [*numbers(_ACTORS[type(input.actor)]), *asked.text(who), *asked.text(input.action)]
        words += [*numbers(resource is not None), *asked.text(kind), *asked.option(id, always=True)]
        words += asked.option(input.args_hash, always=True)
        words += [*asked.text(input.env.service), *asked.text(input.env.mode), *stamp]
    else:
        words, behind, who_else = asked.actor(input.actor), [], input.actor
        while getattr(who_else, "on_behalf_of", None) is not None:
            who_else = who_else.on_behalf_of  # type: ignore[union-attr,assignment]
            behind.append(who_else)
        words += [*asked.list_of(4, behind, asked.actor), *asked.text(input.action)]
        if resource is None:
            words += numbers(*([0] * 8))
        else:
            words += [*numbers(1), *asked.text(kind), *asked.option(id, always=False)]
            words += asked.attributes(resource.attributes)
        words += asked.option(input.args_hash, always=False)
        words += [*asked.text(input.env.service), *asked.text(input.env.mode), *stamp]
        words += [*asked.attributes(input.args), *asked.attributes(input.context)]
    asked.record = words
    return asked


def layout(liar: Liar, asked: Asked) -> tuple[list[int], int]:
    """What the calls of ``cabi_realloc`` give, and the size of memory after them."""
    pointers, free, pages = [], HEAP, 1
    for call, (align, size) in enumerate(asked.calls):
        pages += liar.grows.get(call, 0)
        if call in liar.pointers:
            pointers.append(liar.pointers[call])
        else:
            pointers.append((free + align - 1) // align * align)
            free = pointers[-1] + size
    return pointers, pages * PAGE


def _allocation_rules(spans: list[tuple[int, int]], beyond: list[int], size: int) -> set[str]:
    used = [span for span in spans if span[0] < span[1]]
    found = {
        "allocation_misaligned": any(beyond),
        "allocation_out_of_bounds": any(high > size for _, high in spans),
        "allocation_failed": any(low == 0 for low, _ in used),
        "allocations_overlap": any(_meet(a, b) for i, a in enumerate(used) for b in used[:i]),
    }
    return {rule for rule, is_broken in found.items() if is_broken}


def _meet(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _answer(result: int, memory: bytearray, taken: list[tuple[int, int]], limits: Limits) -> Outcome:
    found = {
        "result_null": result == 0,
        "result_misaligned": result % 4 != 0,
        "result_out_of_bounds": result + 12 > len(memory),
        "result_overlaps_input": any(_meet((result, result + 12), span) for span in taken),
    }
    broken = {rule for rule, is_broken in found.items() if is_broken}
    if broken:
        return "abi", broken
    discriminant, reason, length = struct.unpack_from("<B3xII", memory, result)
    if discriminant == 0:
        return "allow", None
    if discriminant != 1:
        return "abi", {"discriminant"}
    broken = {"reason_too_long"} if length > limits.output_bytes else set()
    broken |= {"reason_out_of_bounds"} if reason + length > len(memory) else set()
    if broken:
        return "abi", broken
    try:
        return "deny", memory[reason : reason + length].decode()
    except UnicodeDecodeError:
        return "abi", {"reason_not_utf8"}
