"""Judges golden fixtures: questions with the answers that a policy has to give, in files that people review.

``fixture_files`` reads them. ``policy_under_test`` is the policy that they are about. ``run`` has it answer them, in
Python and as a module on each engine. ``coverage`` says which rules and entries of a document none of them is about.
``report`` puts outcomes into words. ``release`` judges those that a release brings.
"""

from __future__ import annotations

from ...store.release_fixtures import Fixture
from .coverage import Coverage, DocumentPart, coverage_of
from .fixture_files import read_fixtures
from .policy_under_test import PolicyUnderTest
from .release import check_release, release_file
from .run import Answer, Outcome, Runner, check_fixtures, run_fixtures

__all__ = [
    "Answer",
    "Coverage",
    "DocumentPart",
    "Fixture",
    "Outcome",
    "PolicyUnderTest",
    "Runner",
    "check_fixtures",
    "check_release",
    "coverage_of",
    "read_fixtures",
    "release_file",
    "run_fixtures",
]
