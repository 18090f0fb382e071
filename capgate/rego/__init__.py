"""Computes the functions that the host provides to Rego policies which OPA compiled to WebAssembly.

Uses ``errors``. Read ``base.py`` first, then ``terms.py``: values in Python.

Those that are provided are in :data:`BUILTINS`, by their Rego names. Those that are not are in :data:`NOT_PROVIDED`,
each with the reason: it is impure, or there is no doing exactly what OPA does, or a library is not installed. A name in
neither is not known. The functions and their results are those of OPA's reference,
https://www.openpolicyagent.org/docs/policy-reference.
"""

from types import MappingProxyType
from typing import Final

from . import (
    base,
    containers,
    digests,
    encodings,
    networks,
    not_provided,
    numbers,
    patches,
    regexes,
    strings,
    times,
    tokens,
    value_text,
    versions,
    yamls,
)
from .base import WORK, Builtin, Context, Undefined
from .terms import Number, Object, Set, Value

BUILTINS: Final = MappingProxyType(base.BUILTINS)
NOT_PROVIDED: Final = MappingProxyType(base.NOT_PROVIDED)

__all__ = ["BUILTINS", "NOT_PROVIDED", "WORK", "Builtin", "Context", "Number", "Object", "Set", "Undefined", "Value"]

#: The modules that fill the two, which they do when they are imported.
_FAMILIES: Final = (
    *(containers, digests, encodings, networks, not_provided, numbers, patches),
    *(regexes, strings, times, tokens, value_text, versions, yamls),
)
