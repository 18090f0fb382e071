"""Signs tokens, as the login service of a real application does: ``python -m examples.fastapi_tenants.sign_token``.

Arguments are a user, a tenant, and roles. The key is that in ``key.pem``. What is printed is a header of HTTP.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import jwt


def claims_of(id: str, tenant: str, *roles: str) -> dict[str, Any]:
    """Return the claims of a token that is good for ten minutes."""
    expires = time.time() + 600
    return {"sub": id, "tid": tenant, "realm_access": {"roles": [*roles]}, "aud": "invoices", "exp": expires}


if __name__ == "__main__":
    token = jwt.encode(claims_of(*sys.argv[1:]), Path("key.pem").read_text(), "EdDSA")
    sys.stdout.write(f"authorization: bearer {token}\n")
