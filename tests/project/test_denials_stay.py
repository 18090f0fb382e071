"""Nothing in the code makes an allow of a denial, but what says that it does: read from the code itself."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import capgate

PACKAGE = Path(capgate.__file__).parent
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))

#: Every function that gives an allow, and what it gives it for. A new one is a decision that somebody has to make.
GIVE = {
    ("checker/cached.py", "Memory._recall"): "an operation that settings declare safe",
    ("enforcement/point.py", "EnforcementPoint.settle_denial"): "a denial that does not count: monitoring",
    ("enforcement/point.py", "EnforcementPoint.report_allow"): "the event of an allow",
    ("policy/analysis/branching.py", "_answer"): "what a condition that allows would answer, told to people",
    ("policy/evaluate.py", "RuntimePolicy.__init__"): "a rule that allows",
    ("policy/evaluate.py", "_entries"): "a section that admits",
    ("runtime/abi/canonical_abi.py", "CanonicalCall._load"): "the guest's answer",
    ("runtime/abi/fixed.py", "_bind.ask"): "the guest's answer",
    ("runtime/abi/opa/answer.py", "AnswerReader._decided"): "the guest's answer",
    ("runtime/abi/opa/answer.py", "AnswerReader._decision"): "the guest's answer",
    ("runtime/abi/opa/answer.py", "AnswerReader._denied"): "the guest's answer",
}
#: Who asks whether denials count at the moment, and who only says so.
PERIODS = {
    ("enforcement/point.py", "EnforcementPoint.only_monitors"),
    ("enforcement/point.py", "EnforcementPoint.settle_denial"),
    ("events.py", "DecisionLog._enforce"),
    ("events.py", "monitoring"),
    ("middleware/startup.py", "Startup._start"),
}
#: Who takes a decision that is settled, and acts on nothing else.
SETTLE = {
    ("enforcement/capabilities.py", "Capabilities._conclude"),
    ("enforcement/point.py", "settle_unasked"),
    ("middleware/request.py", "GatedRequest._settle"),
}
#: Who takes one of what could not be asked at all.
SETTLE_UNASKED = {
    ("enforcement/capabilities.py", "Capabilities._deny_all"),
    ("enforcement/capabilities.py", "Capabilities.insist_on_asking"),
}


def walk(tree: ast.AST, inside: tuple[str, ...] = ()) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """Every node below ``tree`` with the name of the function that it is in, and its parent."""
    for child in ast.iter_child_nodes(tree):
        yield ".".join(inside), child, tree
        named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        yield from walk(child, (*inside, child.name) if named else inside)  # type: ignore[attr-defined]


@cache
def nodes(module: str) -> list[tuple[str, ast.AST, ast.AST]]:
    """Every node of a module of the package, as :func:`walk` gives them."""
    return list(walk(ast.parse((PACKAGE / module).read_text())))


@cache
def uses() -> dict[str, set[tuple[str, str]]]:
    """The functions in which each attribute and name is used."""
    out = defaultdict(set)
    for module in MODULES:
        for where, node, _ in nodes(module):
            if isinstance(node, (ast.Attribute, ast.Name)):
                out[node.attr if isinstance(node, ast.Attribute) else node.id].add((module, where))
    return out


def places(wanted: str) -> set[tuple[str, str]]:
    """The functions in which an attribute or a name of that name is used."""
    return uses().get(wanted, set())


def gives_allow(node: ast.AST, parent: ast.AST) -> bool:
    """Whether ``node`` is an allow that is handed on: made, or named and not only compared with."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).rpartition(".")[2] == "Allow"
    named = isinstance(node, ast.Name) and node.id == "ALLOW"
    named = named or (isinstance(node, ast.Attribute) and node.attr == "ALLOW")
    return named and not isinstance(parent, ast.Compare) and isinstance(getattr(node, "ctx", None), ast.Load)


def test_every_allow_is_given_for_a_reason_that_is_known() -> None:
    found = set()
    for module in MODULES:
        if module in ("model.py",) or module.startswith(("cli/", "testing/")):
            continue  # where it is defined; and what judges nothing that a client sent
        for where, node, parent in nodes(module):
            if gives_allow(node, parent):
                found.add((module, where))
    assert found == set(GIVE)


def test_one_place_makes_an_allow_of_a_denial() -> None:
    assert places("lasts") == PERIODS
    assert places("_period") == {
        ("enforcement/point.py", "EnforcementPoint.__init__"),
        ("enforcement/point.py", "EnforcementPoint.only_monitors"),
        ("enforcement/point.py", "EnforcementPoint.settle_denial"),
        ("events.py", "DecisionLog.__init__"),
        ("events.py", "DecisionLog._enforce"),
        ("events.py", "DecisionLog.denied"),
        ("middleware/startup.py", "Startup.__init__"),
        ("middleware/startup.py", "Startup._start"),
        ("middleware/startup.py", "Startup.close"),
    }
    assert places("settle_denial") == SETTLE
    assert places("settle_unasked") == SETTLE_UNASKED


def test_only_what_the_code_says_begins_it() -> None:
    """Settings alone say that a gate monitors, and one place reads it."""
    assert places("monitors") == {("middleware/startup.py", "Startup._start")}
    # Whoever asks the point whether it only monitors takes an allow from settle_denial all the same.
    assert places("only_monitors") == {
        ("middleware/request.py", "GatedRequest._settle"),
        ("middleware/request.py", "GatedRequest.admit"),
    }
    assert places("MonitorPeriod") - {("events.py", "")} == {
        ("middleware/startup.py", "RequestPoint.__init__"),
        ("middleware/startup.py", "Startup.__init__"),
        ("middleware/startup.py", "Startup._start"),
        ("enforcement/point.py", "EnforcementPoint.__init__"),
        ("events.py", "DecisionLog.__init__"),
    }
    assert places("MONITOR") == {
        ("settings/settings.py", "Settings.__post_init__"),
        ("settings/settings.py", "Settings.from_env"),
        ("settings/settings.py", "Settings.monitors"),
        ("settings/table.py", ""),
    }


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("cli/")])
def test_no_decision_is_changed_in_place(module: str) -> None:
    """Neither by assigning to a part of one, nor by making a copy with another result."""
    for _, node, _ in nodes(module):
        if isinstance(node, ast.Attribute) and node.attr == "result":
            assert isinstance(node.ctx, ast.Load)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("replace"):
            assert "result" not in {keyword.arg for keyword in node.keywords}
