"""Builds a policy document into a WebAssembly module: the evaluator that capgate ships, with the document as data.

No toolchain is needed. The module consists of a compiled guest, a memory of fixed size, the image of the document at
:data:`~capgate.artifact.guest.IMAGE_BASE`, and a custom section ``capgate:policy`` with its label. The guest is
``guest/evaluator.wasm``, or ``guest/facts_evaluator.wasm`` for a document with conditions. Rules that only monitor are
in a section ``capgate:monitor``, for the host alone. The image, and so each answer, is that of the document without
them.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..errors import ConfigError, DecodeError
from ..limits import RANGES, Limits, check_number
from ..policy import ALWAYS, INPUTS, MonitoredRules, RuntimePolicy, is_label
from ..wasm import Module, decode, encode, with_custom, with_data, with_memory
from .guest import IMAGE_BASE, evaluator, make_image
from .guest.image import Progress, SpokenFacts, image_facts, image_inputs

POLICY_SECTION: Final = "capgate:policy"
MONITOR_SECTION: Final = "capgate:monitor"
FORMAT: Final = 2
PAGE: Final = 65_536
#: Beside the text of an input: its record, alignment, and what a host allocates in pieces.
ARENA_EXTRA: Final = 4_096
#: Beside the text of a fact: what it is packed with.
FACT_EXTRA: Final = 16

_MAX_PAGES: Final = int(RANGES["memory_pages"][1])


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the custom section says, as JSON. ``format`` is the version of this layout.

    ``inputs``, sorted, are the fields of a question that the policy looks at, as in :attr:`RuntimePolicy.inputs`; a
    foreign module may have none. Anybody can write a label: what it says of ``inputs`` holds only for a module which
    :func:`is_built_by_capgate`.
    """

    name: str
    version: str
    format: int = FORMAT
    inputs: tuple[str, ...] = ()


def build_policy(
    document: RuntimePolicy | dict[str, Any] | str | bytes,
    *,
    input_bytes: int = Limits().input_bytes,
    progress: Progress | None = None,
) -> bytes:
    """Build ``document`` into a WebAssembly module that answers exactly as :meth:`RuntimePolicy.evaluate` does.

    ``input_bytes`` is the text of one input, in UTF-8 bytes, that the module has room for. It must be at least the
    ``Limits.input_bytes`` that the module will run under. ``progress`` is called now and then, with how many entries
    are done and how many there are. The same document and ``input_bytes`` give the same bytes.

    Raises :class:`ConfigError` for a bad document, or one that does not fit.
    """
    check_number("input_bytes", input_bytes, *RANGES["input_bytes"], whole=True)
    policy = document if isinstance(document, RuntimePolicy) else RuntimePolicy.from_document(document)
    image = make_image(policy, progress)
    room = input_bytes + ARENA_EXTRA
    if "facts" in policy.inputs:  # which lie in memory once more, packed
        room += input_bytes + FACT_EXTRA * len(image_facts(image))
    pages = -(-(IMAGE_BASE + len(image) + room) // PAGE)
    if pages > _MAX_PAGES:
        raise ConfigError("document", f"{pages} pages of memory", f"documents that need at most {_MAX_PAGES}")
    label = Label(policy.name, policy.version, inputs=tuple(sorted(policy.inputs)))
    return _assemble(image, pages, label, policy.monitored)


def is_built_by_capgate(data: bytes | Module) -> bool:
    """Say whether ``data`` is, byte for byte, what :func:`build_policy` of this version puts around the image in it.

    Such a module is pure, because it is the shipped guest. That writes nothing while it answers, and treats the image
    as untrusted, so this holds for an image that no document gives, too. So does what the label says of ``inputs``: the
    guest heeds the image's header, with which they agree. Of the rest of the image only the conditions are looked at:
    they are as a document's are, byte for byte, because they say which facts the module is given.
    """
    try:
        module = data if isinstance(data, Module) else decode(data, bodies=False)
    except DecodeError:
        return False
    label = read_label(module)
    if label is None or label.format != FORMAT or len(module.memories) != 1 or not module.data:
        return False
    image, pages = module.data[-1].data, module.memories[0].minimum
    if not IMAGE_BASE + len(image) <= pages * PAGE <= _MAX_PAGES * PAGE or image_inputs(image) != frozenset(
        label.inputs
    ):
        return False
    try:
        image_facts(image)
        monitored = read_monitored(module)
    except (ConfigError, ValueError):
        return False
    return _assemble(image, pages, label, monitored) == module.source


def spoken_facts(module: Module) -> SpokenFacts:
    """Return the facts that the conditions of a module speak of, which :func:`is_built_by_capgate`, with their types.

    The number of a fact is its place.
    """
    return image_facts(module.data[-1].data)


def read_monitored(module: Module) -> MonitoredRules | None:
    """Return the rules of a module that only monitor; ``None`` where it has none.

    Raises ``ValueError`` where its section is not as :func:`build_policy` writes it, and :class:`ConfigError` where
    they are too many. No answer depends on them, so whoever made the module may say them.
    """
    content = module.custom(MONITOR_SECTION)
    return None if content is None else MonitoredRules.decode(content)


def read_label(module: Module) -> Label | None:
    """Return the label of a module that has one, as a document could have given it; else ``None``."""
    content = module.custom(POLICY_SECTION)
    try:
        label = None if content is None else msgspec.json.decode(content, type=Label)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return label if label is not None and _is_sound(label) else None


def _is_sound(label: Label) -> bool:
    if not (is_label(label.name) and is_label(label.version)):
        return False
    sound = ALWAYS.issubset(label.inputs) and label.inputs == tuple(name for name in INPUTS if name in label.inputs)
    return sound or not label.inputs


def _assemble(image: bytes, pages: int, label: Label, monitored: MonitoredRules | None) -> bytes:
    module = with_memory(decode(evaluator(facts="facts" in label.inputs), bodies=False), pages, pages)
    module = with_custom(with_data(module, IMAGE_BASE, image), POLICY_SECTION, msgspec.json.encode(label))
    return encode(module if monitored is None else with_custom(module, MONITOR_SECTION, monitored.encode()))
