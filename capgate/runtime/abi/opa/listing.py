"""What a module that OPA compiled says of itself: its entry points and the builtins that it needs."""

from __future__ import annotations

from collections.abc import Mapping

from ....limits import Limits
from ....model import ONLY_ENTRYPOINT
from ...engine import CompiledModule
from .guest import Guest
from .module import Facts


class Listing(Guest):
    """An instance that is asked for names, and never a question: so no data, no entry point, and any builtins.

    ``entrypoints`` and ``builtins`` are sorted, and there once it was loaded. Raises
    :class:`~capgate.errors.AbiError`, or what the engine raises.
    """

    entrypoints: tuple[str, ...]
    builtins: tuple[str, ...]

    def __init__(self, compiled: CompiledModule, facts: Facts, limits: Limits, entries: Mapping[str, str]) -> None:
        super().__init__(compiled, facts, limits, entries, ONLY_ENTRYPOINT)

    def load(self, data: bytes = b"{}") -> None:
        """Ask for the names, with the fuel of one question. The data are left alone."""
        self._begin_loading(0)
        self.builtins = tuple(sorted(self._names("builtins")))
        self.entrypoints = tuple(sorted(self._names("entrypoints")))
