"""Would the tests see what others got wrong? Each pitfall is re-introduced, and something has to notice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from .attack import as_expected
from .children import attack
from .detectors import DETECTORS, is_not_proved, shows
from .mutations import MUTATIONS, Mutation

#: What concerns no payment or index, and the proof therefore does not speak of.
NOT_FOR_THE_PROOF = {
    "a br_if ends no block",  # pays more than wasmtime counts, never less
    "a then pays before the if",
    "blocks merged over escapes",
    "reserved names are admitted",
    "flags of limits are ignored",
    "one of several results",  # an engine finds it invalid
    "frames weigh the same",
}


def in_process(mutation: Mutation) -> set[str]:
    """The detectors that notice, the proof among them."""
    with mutation.applied(proved=False):
        seen = {name for name, detector in DETECTORS.items() if shows(detector)}
    with mutation.applied(proved=True):
        return seen | ({"proof"} if is_not_proved() else set())


def by_hostile_guests(name: str) -> set[str]:
    results = attack("wasmtime", name, seconds=3)  # all of them take half a second
    return set() if all(as_expected(item.expected, item.got) for item in results) else {"hostile"}


@pytest.mark.slow
def test_nothing_shows_without_a_mutation() -> None:
    """Otherwise a detector that always shows something would count as one that works."""
    assert {name for name, detector in DETECTORS.items() if detector()} == set()
    assert not is_not_proved()


@pytest.fixture(scope="module")
def table() -> dict[str, set[str]]:
    """Mutation -> what notices it. The hostile guests, which may hang, are asked where only the proof does."""
    found = {name: in_process(mutation) for name, mutation in MUTATIONS.items()}
    asked = [name for name, seen in found.items() if not seen - {"proof"}]
    with ThreadPoolExecutor(2) as pool:
        for name, seen in zip(asked, pool.map(by_hostile_guests, asked), strict=True):
            found[name] |= seen
    return found


@pytest.mark.slow
def test_every_mutation_is_noticed(table: dict[str, set[str]]) -> None:
    """# pitfalls 1 to 6, 8, 10, 12 to 18, 20, 21, 23 to 25, 27, 30, 31"""
    columns = [*DETECTORS, "hostile", "proof"]
    print(f"\n{'pitfall':8} {'mutation':36} " + " ".join(columns))
    for name, seen in table.items():
        marks = " ".join(("x" if column in seen else ".").center(len(column)) for column in columns)
        print(f"{MUTATIONS[name].pitfall:8} {name:36} {marks}")
    assert [name for name, seen in table.items() if not seen] == []


@pytest.mark.slow
def test_the_proof_notices_all_that_concerns_payment(table: dict[str, set[str]]) -> None:
    assert {name for name, seen in table.items() if "proof" not in seen} <= NOT_FOR_THE_PROOF


@pytest.mark.slow
def test_the_proof_is_not_alone(table: dict[str, set[str]]) -> None:
    """With the proof off, tests of behaviour notice every one of them too."""
    assert [name for name, seen in table.items() if not seen - {"proof"}] == []
