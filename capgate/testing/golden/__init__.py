"""Golden fixtures: questions with the answers that a policy has to give, in files that people read and review.

``fixtures`` reads them, ``subject`` is the policy that they are about, ``run`` has it answer them, in Python and as a
module on each engine, ``coverage`` says which rules and entries of a document none of them is about, ``report`` puts
outcomes into words. ``release`` judges those that a release brings.
"""

from __future__ import annotations

from .coverage import Coverage, Unit, coverage_of
from .fixtures import Fixture, read_fixtures
from .policy_under_test import PolicyUnderTest
from .release import check_release, release_file
from .run import Answer, Outcome, Runner, check_fixtures, run_fixtures

__all__ = [
    "Answer",
    "Coverage",
    "Fixture",
    "Outcome",
    "PolicyUnderTest",
    "Runner",
    "Unit",
    "check_fixtures",
    "check_release",
    "coverage_of",
    "read_fixtures",
    "release_file",
    "run_fixtures",
]
