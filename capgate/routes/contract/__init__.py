"""Keeps what an application declares, and the digests of what it was reviewed with, as one JSON file.

::

    {"format": 2, "service": "orders",
     "policyHash": "...",           SHA-256 of the action vocabulary (capgate.actions.policy_hash)
     "wasmPolicyHash": "0...0",     SHA-256 of the Wasm policy; all zeros: there is none
     "artifactSha256": "...",       SHA-256 of the policy in force, a document or a module; all zeros: none is known
     "routes": [{"path": "/orders/{number}", "methods": ["PUT"], "status": "declared", "requirements": [
         {"action": "db.write", "resource": "sql_query:save_order", "dynamic": false, "argsHash": null,
          "facts": true,                whether attributes of the resource are looked up
          "args": [{"name": "total", "source": "json:/total"}]}]}],
     "actions": [{"name": "db.write", "section": "sql", "kind": "sql_query", "resourceRequired": true,
                  "operations": ["delete", "insert", "update", "upsert", "write"]}],
     "sections": {"sql": {"static": ["save_order"], "dynamic": false}}}

Every key is always there, and every list is sorted. ``actions`` and ``sections`` follow from ``routes`` and the
vocabulary. So there is one text for one contract. A change of it reads as a change of the application.
:mod:`capgate.middleware.contract` makes contracts from applications and holds running ones to them. Read
``handler_contract.py`` first.
"""

from __future__ import annotations

from .changes import ContractChange, Effect, changes
from .handler_contract import (
    ZEROS,
    ContractAction,
    ContractArgument,
    ContractRequirement,
    ContractRoute,
    ContractSection,
    HandlerContract,
    policy_from_contract,
    quoted,
    requirement_key,
    route_key,
)

__all__ = [
    "ZEROS",
    "ContractAction",
    "ContractArgument",
    "ContractChange",
    "ContractRequirement",
    "ContractRoute",
    "ContractSection",
    "Effect",
    "HandlerContract",
    "changes",
    "policy_from_contract",
    "quoted",
    "requirement_key",
    "route_key",
]
