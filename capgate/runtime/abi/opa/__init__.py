"""The ABI of the modules that OPA compiles from Rego, versions 1.0 to 1.3.

The interface is described at https://www.openpolicyagent.org/docs/wasm, sections "Policy evaluation" and "ABI". The
host makes the memory, provides seven functions, and asks by calls on values that lie in the guest's memory.

``module``    what can be told of a module without running it: version, imports, exports
``host``      the functions that the guest calls: builtins, abort
``guest``     one live instance: start-up, and a question
``listing``   what a module says of itself, asked by nobody else
``document``  the input as JSON
``answer``    what the JSON that comes back means
"""

from .guest import Guest
from .listing import Listing
from .module import ENTRIES, IMPORTS, LOADING, Facts, check_module, loading_fuel

__all__ = ["ENTRIES", "IMPORTS", "LOADING", "Facts", "Guest", "Listing", "check_module", "loading_fuel"]
