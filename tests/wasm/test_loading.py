"""Other fuel for what gets an instance ready than for a call: the start function, and the entries that are named."""

from __future__ import annotations

import pytest

from capgate.errors import PolicyTrap, RestrictedModule
from capgate.limits import Limits
from capgate.runtime.engine import Instance, load_engine
from capgate.wasm import Loading, decode, meter
from capgate.wasm.metering.module_proof import verify
from capgate.wasm.metering.prices import prices_for

from ..support.guests import wat

#: A thousand rounds cost some ten thousand.
COUNT = """(local $n i32) (loop $again (br_if $again
  (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000))))"""
WORK = f'(func $work (export "work") {COUNT}) (func (export "more") {COUNT})'
LIMITS = Limits(fuel=1_000)
PLENTY = 100_000


def instance(engine_name: str, module: str, loading: Loading | None) -> tuple[Instance, dict[str, str]]:
    metered = meter(wat(module), LIMITS, loading=loading)
    return load_engine(engine_name).compile(metered.data).instantiate(), metered.entries


@pytest.mark.parametrize(("fuel", "enough"), [(None, False), (1_000, False), (PLENTY, True)])
def test_the_start_function_has_the_fuel_of_loading(engine_name: str, fuel: int | None, enough: bool) -> None:
    module, loading = f"(module {WORK} (start $work))", None if fuel is None else Loading(fuel)
    if enough:
        instance(engine_name, module, loading)
    else:
        with pytest.raises(PolicyTrap):
            instance(engine_name, module, loading)


def test_only_entries_that_are_named_have_it(engine_name: str) -> None:
    made, entries = instance(engine_name, f"(module {WORK})", Loading(PLENTY, frozenset({"work"})))
    made.function(entries["work"], 0, 0)()
    with pytest.raises(BaseException):  # noqa: B017, PT011 - each engine has exceptions of its own
        made.function(entries["more"], 0, 0)()


@pytest.mark.parametrize(
    ("given", "proved"),
    [
        (Loading(PLENTY, frozenset({"work"})), Loading(PLENTY, frozenset({"more"}))),
        (Loading(PLENTY, frozenset({"work"})), Loading(PLENTY)),
        (Loading(PLENTY), Loading(PLENTY, frozenset({"work"}))),
        (Loading(PLENTY, frozenset({"work"})), Loading(PLENTY + 1, frozenset({"work"}))),
        (Loading(PLENTY, frozenset({"work"})), None),
        (Loading(PLENTY), Loading(PLENTY - 1)),
    ],
)
def test_what_was_not_to_have_it_is_not_proved(given: Loading, proved: Loading | None) -> None:
    """The second pass finds an entry, or a start function, that sets more fuel than it should."""
    original = decode(wat(f"(module {WORK} (start $work))"))
    prices = prices_for(0)
    metered = meter(original.source, LIMITS, loading=given).data
    verify(original, metered, LIMITS, prices, given)
    with pytest.raises(RestrictedModule) as caught:
        verify(original, metered, LIMITS, prices, proved)
    assert caught.value.rule == "unproven"
