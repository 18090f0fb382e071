"""Questions with facts, and documents whose rules have conditions on them. Everything random comes from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from capgate import PolicyInput, Resource, User

from .questions import ACTION, EPOCH, KIND, entry

ROLE = "editor"
#: Rules differ in the highest amount, of which there are so many; and so there are so many conditions at most.
LIMITS = 100
#: When all rules end, in nanoseconds since the epoch and as a condition says it.
UNTIL, UNTIL_TEXT = 1_798_761_600_000_000_000, "2027-01-01T00:00:00Z"
#: Five comparisons, of six facts and the time.
CONDITION = (
    f'"{ROLE}" in actor.roles && resource.owner == actor.id && resource.tenant == actor.tenant'
    f' && args.amount <= %d && now < timestamp("{UNTIL_TEXT}")'
)


class FactQuestion(NamedTuple):
    """May ``who`` write ``amount`` to the entry called ``name``, which is ``owner``'s and of the tenant ``of``?"""

    who: str
    roles: tuple[str, ...]
    tenant: str
    name: str
    owner: str
    of: str
    amount: int
    at: int

    @property
    def number(self) -> int:
        """Which entry that is."""
        return int(self.name[-6:])


def highest(number: int) -> int:
    """The amount that rule ``number`` admits at most."""
    return 1_000 + number % LIMITS


def holds(question: FactQuestion, size: int) -> bool:
    """What every contender has to answer, written by hand."""
    return (
        question.number < size
        and ROLE in question.roles
        and question.owner == question.who
        and question.of == question.tenant
        and question.amount <= highest(question.number)
        and question.at < UNTIL
    )


def conditional_document(size: int) -> dict[str, Any]:
    """A document of ``size`` rules, each of which admits writing one entry where a condition holds."""
    document = unconditional_document(size)
    for number, rule in enumerate(document["rules"]):
        rule["when"] = CONDITION % highest(number)
    facts = {"actor": {"tenant": "string"}, "resource": {"owner": "string", "tenant": "string"}}
    return {**document, "attributes": {**facts, "args": {"amount": "int"}}}


def unconditional_document(size: int) -> dict[str, Any]:
    """The same rules without their conditions."""
    rules = [
        {"effect": "allow", "actions": [ACTION], "resources": [f"{KIND}:{entry(number)}"]} for number in range(size)
    ]
    return {"name": f"bench-rules-{size}", "rules": rules}


def with_facts(question: FactQuestion) -> PolicyInput:
    """The form that capgate takes."""
    actor = User(question.who, roles=question.roles, attributes={"tenant": question.tenant})
    resource = Resource(KIND, question.name, {"owner": question.owner, "tenant": question.of})
    return PolicyInput(ACTION, actor, resource, timestamp=question.at, args={"amount": question.amount})


def without_facts(question: FactQuestion) -> PolicyInput:
    """The same question, from an application that says no facts."""
    return PolicyInput(ACTION, User(question.who), Resource(KIND, question.name), timestamp=question.at)


def admitted(size: int, seed: int) -> Iterator[FactQuestion]:
    """Give questions without end, each about another entry by somebody else, that the document of ``size`` admits."""
    draw = random.Random(f"{seed} facts {size}")
    while True:
        who, tenant = f"user_{draw.randrange(10**6):06d}", f"tenant_{draw.randrange(1000):03d}"
        number, at = draw.randrange(size), EPOCH + draw.getrandbits(40)
        amount = draw.randint(1, highest(number))
        yield FactQuestion(who, ("reader", ROLE), tenant, entry(number), str(who), str(tenant), amount, at)


def arguments_with_facts(size: int, seed: int, form: Callable[[FactQuestion], Any]) -> Callable[[int], Sequence[Any]]:
    """A function that gives ``n`` admitted questions in ``form``, all of new objects."""
    drawn = admitted(size, seed)
    return lambda n: [form(next(drawn)) for _ in range(n)]


def probing(size: int, seed: int) -> Iterator[FactQuestion]:
    """Give questions of both answers: of each that is admitted, those that differ in one fact; limits included."""
    drawn = admitted(size, seed)
    for number in {0, size // 2, size - 1}:
        question = next(drawn)._replace(name=entry(number))
        yield question._replace(amount=highest(number))
        yield question._replace(amount=highest(number) + 1)
        yield question._replace(at=UNTIL - 1_000_000)  # a contender of less than milliseconds would not see one less
        yield question._replace(at=UNTIL)
        yield question._replace(roles=("reader",))
        yield question._replace(roles=())
        yield question._replace(owner="somebody else")
        yield question._replace(of=question.of.upper())
    yield question._replace(name=entry(size), amount=1)
