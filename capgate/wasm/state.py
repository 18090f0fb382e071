"""Says what an instance can remember of a call, so that a host can take it back to where it was.

A call can leave something behind in four places: in linear memory, in mutable globals, in tables, and by dropping
segments. Memory is within reach of hosts anyway. Globals are noted and set back by what
:func:`~capgate.wasm.metering.meter.meter` adds where it is told to. :func:`leaves_state` says whether there is code for
the rest. Where there is none, and nothing is imported that anybody else can change, memory and globals are the whole
state of an instance, whatever it does.
"""

from __future__ import annotations

from .module import Module


def leaves_state(module: Module) -> bool:
    """Say whether ``module``, decoded with its bodies, has code that changes a table or drops a segment."""
    return any(body.leaves_state for body in module.code)
