"""Reads the YAML that data in bundles may be in, where every reader agrees on it, as the same JSON would be read.

OPA tries JSON first, and makes JSON of what is none (``util.Unmarshal``); its signatures cover the value. So numbers
are taken only where their text is the one that Go writes of them.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from ...errors import BuiltinError, BundleError
from .exact_json import WrittenNumber, read_json

#: What copies by aliases may amount to together, in characters and values.
_ALIASES: Final = 1_000_000
#: Go writes numbers below this with an exponent.
_LEAST: Final = Decimal("1e-6")


def read_data(text: bytes, member: str) -> Any:
    """Return the value of ``data.yaml`` as :func:`~.exact_json.read_json` returns that of the same JSON.

    Raises :class:`BundleError` where readers differ in it, where it is none, and where ``pyyaml`` is not installed.
    """
    try:
        return read_json(text, member)
    except BundleError:
        pass  # it is no strict JSON: what is JSON and not strict, such as with equal keys, is no such YAML either
    from ...rego import Context, Number, Object, Undefined  # only here, because of what they import
    from ...rego.yamls import COST, read_yaml

    def exact(value: Any) -> Any:
        if isinstance(value, Object):
            return {key: exact(item) for key, item in value.items}
        if isinstance(value, tuple):
            return [exact(item) for item in value]
        if isinstance(value, Number):
            if abs(value) < _LEAST:
                raise BuiltinError("yaml", "ambiguous", f"readers of YAML differ in how {value.text} is written")
            return WrittenNumber(value.text)
        return WrittenNumber(value) if type(value) is int else value

    try:
        decoded = text.decode()
        return exact(read_yaml(Context(0, COST * len(decoded) + _ALIASES), decoded))
    except (BuiltinError, Undefined, ValueError, RecursionError) as error:
        why = str(error) or "it is no YAML"
        raise BundleError(f"{member!r} is not read: {why}", reason="data", member=member) from error
