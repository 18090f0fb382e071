"""The handler contract: what an application declares, and the digests of what it was reviewed with, as one JSON file.

::

    {"format": 1, "service": "orders",
     "policyHash": "...",           SHA-256 of the action vocabulary (capgate.actions.policy_hash)
     "wasmPolicyHash": "0...0",     SHA-256 of the Wasm policy; all zeros: there is none
     "artifactSha256": "...",       SHA-256 of the policy in force, a document or a module; all zeros: none is known
     "routes": [{"path": "/orders/{number}", "methods": ["PUT"], "status": "declared", "requirements": [
         {"action": "db.write", "resource": "sql_query:save_order", "dynamic": false, "argsHash": null}]}],
     "actions": [{"name": "db.write", "section": "sql", "kind": "sql_query", "resourceRequired": true,
                  "operations": ["delete", "insert", "update", "upsert", "write"]}],
     "sections": {"sql": {"static": ["save_order"], "dynamic": false}}}

Every key is always there, every list is sorted, and ``actions`` and ``sections`` follow from ``routes`` and the
vocabulary: there is one text for one contract, and a change of it reads as a change of the application.
:mod:`capgate.middleware.contract` makes contracts from applications and holds running ones to them.
"""

from __future__ import annotations

from .changes import Change, Effect, changes
from .handler import HandlerContract, policy_from_contract
from .parts import ZEROS, ContractAction, ContractRequirement, ContractRoute, ContractSection

__all__ = [
    "ZEROS",
    "Change",
    "ContractAction",
    "ContractRequirement",
    "ContractRoute",
    "ContractSection",
    "Effect",
    "HandlerContract",
    "changes",
    "policy_from_contract",
]
