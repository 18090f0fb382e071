"""Makes a module pay for what it does.

Whatever ``data`` does, of ``meter(data, limits).data`` the following holds, and :mod:`.module_proof` proves it before
it is given out:

- Every instruction is paid before it runs, in fuel. Every entry of a function and every cycle of the control flow pays,
  the start function and allocators included. Bulk operations pay for their length.
- Nested calls are bounded, each weighted by its frame.
- Memory and tables cannot grow beyond the limits. In a memory that grew large, where loads cost more, fuel is worth
  less.
- With fuel enough, the module does exactly what it did: nothing is removed, and nothing moves in any index space.

An engine has to find both the original and the result valid before the result is used: what is well-formed here may
still be ill-typed.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ...errors import RestrictedModule
from ...limits import Limits
from ..module import Module
from ..restrict import ImportNames, admit
from ..survey import refused_for
from .module_proof import verify
from .plan import Loading
from .prices import Prices
from .rewrite import FUEL, RESET, RESTORE_STATE, SAVE_STATE, STATUS, Rewriter, prices_of


class Metered(msgspec.Struct, frozen=True):
    """A metered module, and how a host uses it.

    ``entries`` maps the name of an exported function to that of the export which calls it with the fuel and depth of
    the limits: one guest call per question, nothing to set before. A direct call of the original goes on with what an
    earlier entry left; on a new instance that is nothing, so that it traps.

    Three more exports serve every instance:

    ``reset``   (i64, i32) -> () sets fuel and depth
    ``fuel``    () -> i64 says how much is left
    ``status``  () -> i32 says after a trap whether it was the guest's own (0), or exhaustion:
                :data:`~capgate.wasm.metering.charges.OUT_OF_FUEL`, :data:`~capgate.wasm.metering.charges.TOO_DEEP`

    An exhausted instance has no fuel left until a reset.

    Of a module whose state is kept two more take its globals back to where they were:

    ``save``     () -> () notes the values of all mutable globals that the guest defines
    ``restore``  () -> () begins a call as an entry does, and sets them to what was noted; until then, to what they were
                 at first
    """

    data: bytes
    entries: dict[str, str]
    reset: str = RESET
    fuel: str = FUEL
    status: str = STATUS
    save: str = SAVE_STATE
    restore: str = RESTORE_STATE


def meter(
    data: bytes | Module,
    limits: Limits | None = None,
    *,
    prices: Prices | None = None,
    entries: Iterable[str] | None = None,
    imports: ImportNames = (),
    loading: Loading | None = None,
    keeps_state: bool = False,
) -> Metered:
    """Restrict ``data``, and rewrite it so that it pays fuel. Raises ``DecodeError`` or ``RestrictedModule``.

    What is decoded already is taken as well, if it was decoded with its bodies, and as it was.

    ``prices``   replace the cost table that the size of the memory calls for
    ``entries``  are the names of the exported functions that get an entry; all, if ``None``
    ``imports``  are the pairs of module and name that may be imported
    ``keeps_state``  adds the exports ``save`` and ``restore``
    ``loading``  says what has other fuel than a call: the start function, and entries that get an instance ready
    """
    limits = limits or Limits()
    loading = loading or Loading(limits.call_fuel)
    module = admit(data, limits, imports)
    table = prices or prices_of(module, limits)
    try:
        output, names = Rewriter(module, limits, table, loading, keeps_state=keeps_state).run(entries)
    except RestrictedModule as error:
        raise (refused_for(error, module.source, imports) if error.rule == "constant_expression" else error) from None
    verify(module, output, limits, table, loading, keeps_state=keeps_state)
    return Metered(output, names)
