"""Capability gating for ASGI applications: ask a sandboxed policy before a sensitive effect.

The way of a request, to be read in this order::

    middleware.py    the policy enforcement point: 403, or on to the application
    checker.py       the policy decision point: Allow or Deny, whatever happens
    pool.py          live policy instances, made at start-up
    interpreter.py   one instance behind the policy ABI (abi/, engine/)

At start-up: ``store/loader.py`` reads and pins the artifact, ``wasm/`` decodes it. Policies as documents: ``policy/``, ``build.py``.
"""
