"""What a module that OPA compiled says of itself: its entry points and the builtins that it needs."""

from __future__ import annotations

from collections.abc import Mapping

from ...engine import CompiledModule
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Entrypoint
from .guest import Guest
from .module import LOADING, Facts


class Listing(Guest):
    """An instance that is asked for names, and never a question: so no data, no entry point, and any builtins.

    ``entrypoints`` and ``builtins`` are sorted. Raises :class:`~capgate.errors.AbiError`, or what the engine raises.
    """

    entrypoints: tuple[str, ...]
    builtins: tuple[str, ...]

    def __init__(self, compiled: CompiledModule, facts: Facts, limits: Limits, entries: Mapping[str, str]) -> None:
        super().__init__(compiled, facts, limits, entries, entrypoint=ONLY_ENTRYPOINT)

    def _load(self, entries: Mapping[str, str], data: bytes, entrypoint: Entrypoint) -> int:
        self.instance.function(entries[LOADING], 1, 1)(0)  # which begins with all the fuel
        self.builtins = tuple(sorted(self._names("builtins")))
        self.entrypoints = tuple(sorted(self._names("entrypoints")))
        return 0
