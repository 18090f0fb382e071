"""Asks the modules that OPA compiles from Rego, by versions 1.0 to 1.3 of OPA's ABI.

The interface is described at https://www.openpolicyagent.org/docs/wasm, sections "Policy evaluation" and "ABI". The
host makes the memory, provides seven functions, and asks by calls on values that lie in the guest's memory.

``interface``       what can be told of a module without running it: version, imports, exports
``host``            the functions that the guest calls: builtins, abort
``guest``           one live instance: start-up, a question, and what the module says of itself
``input_document``  the input as JSON
``answer``          what the JSON that comes back means
"""

from .guest import Guest, Listing
from .interface import ENTRIES, IMPORTS, LOADING, ModuleFacts, check_module, loading_fuel

__all__ = ["ENTRIES", "IMPORTS", "LOADING", "Guest", "Listing", "ModuleFacts", "check_module", "loading_fuel"]
