"""Tests applications: a gate that notes what was asked and denies on demand, and policies to test against.

::

    def test_no_email_without_a_payment(app):
        gate = RecordedGate()
        gate.deny("http.outbound", "host:api.payments.example")
        with gate.replacing(app), TestClient(app) as client:
            assert client.post("/orders").status_code == 403
        assert gate.questions == ["db.write sql_query:insert_order", "http.outbound host:api.payments.example"]

For pytest there is :mod:`capgate.testing.plugin`, which also makes tests of golden fixtures. It may use every room but
the command line. Read ``recorded_gate.py`` first.
"""

from __future__ import annotations

from .golden import check_fixtures, read_fixtures, run_fixtures
from .recorded_gate import Asked, RecordedGate, make_checker

__all__ = ["Asked", "RecordedGate", "check_fixtures", "make_checker", "read_fixtures", "run_fixtures"]
