"""Finds the function of a module that is to be called once, before anything else: it runs the constructors of globals.

Source: WebAssembly/WASI, "application-abi", where a module is a command or a reactor; WebAssembly/tool-conventions,
"Linking", start section. A reactor that is asked without it answers as if its constructors had said nothing: a deny
list that one fills is empty.
"""

from __future__ import annotations

from typing import Final

from ...errors import RestrictedModule
from ...wasm import Metered, Module
from ..engine import Instance

#: Exports that are initializers, the first that is there being the one: the second is for who has no first.
INITIALIZERS: Final = ("_initialize", "__wasm_call_ctors")
#: The export by which a module is a command.
COMMAND: Final = "_start"

_REACTOR: Final = "link with -mexec-model=reactor or --no-entry (Rust: crate-type cdylib; TinyGo: -buildmode=c-shared)"


def initializer(module: Module) -> str | None:
    """Return the name of the export to call once per instance, ``None`` where there is none.

    Raises :class:`RestrictedModule`: ``command`` for a module that has a ``_start`` to run and end with,
    ``export_kind`` and ``export_type`` for an initializer that is no function without parameters and results.
    """
    if module.export(COMMAND) is not None:
        raise RestrictedModule("command", COMMAND, f"a command runs once and ends, a policy is a reactor: {_REACTOR}")
    for name in INITIALIZERS:
        export = module.export(name)
        if export is None:
            continue
        if export.kind != "function":
            raise RestrictedModule("export_kind", name, f"is a {export.kind}, not a function")
        try:
            signature = module.function_type(export.index)
        except IndexError as error:
            raise RestrictedModule("export_type", name, f"is no function of this module: {error}") from error
        if signature.params or signature.results:
            raise RestrictedModule("export_type", name, "is not () -> (), so it is no initializer; rename the export")
        return name
    return None


def initialize(instance: Instance, metered: Metered, name: str | None) -> None:
    """Call the initializer ``name``, if there is one, of a new instance. Raises what the engine raises."""
    if name is not None:
        instance.function(metered.entries[name], 0, 0)()
