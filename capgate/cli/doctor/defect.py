"""Says what one thing is that ``capgate doctor`` reports, and which codes there are."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

#: What is denied because of a finding: every request, those that the place is about, or none.
Denies = Literal["all", "here", "none"]

#: Every code, with what it says.
CODES: Final = {
    "rejected_at_import": "importing the application raises an error of capgate's",
    "broken_middleware": "a middleware cannot be made",
    "no_gate": "no `CapabilityMiddleware` is around the application, so no policy is asked",
    "cannot_start": "the gate does not start, for a reason that has no code of its own",
    "wrong_setting": "a setting cannot be used",
    "policy_missing": "no policy is configured, or its file is not there",
    "policy_rejected": "the policy is not taken: a mistake in the document, or a module that is not admitted",
    "policy_expired": "the policy has expired",
    "policy_unverified": "the policy is not the one that is pinned, or was not signed by the trusted keys",
    "contract_drift": "the application is not the one of its contract",
    "policy_unpinned": "whoever may write the file of the policy decides, since neither a digest nor a key is named",
    "only_monitored": "no denial counts, and no date says when they begin to",
    "cors_inside": "CORS stands inside the gate, so preflight requests are denied and denials have no CORS headers",
    "authentication_inside": "what says who asks stands inside the gate, so what it answers by itself is denied",
    "middleware_inside": "a middleware stands inside the gate, where it runs before a policy is asked",
    "cache_outside": "a cache stands outside the gate, and may answer with what another user was allowed",
    "user_without_name": "users have no name that the gate could ask about",
    "actor_of_other_type": "the function `actor` returns what is no actor",
    "no_router": "no router was found, so nothing can be asked about",
    "unresolvable": "it is not certain what runs at a route",
    "undeclared": "a route declares nothing",
    "undeclared_websocket": "a websocket declares nothing",
    "docs_page_denied": "a page of FastAPI's documentation is neither public nor switched off",
    "health_route_denied": "a health check is not public",
    "missing_parameter": "a declaration uses a path parameter that the path does not have",
    "unknown_parameter": "a path parameter has a type whose values have no agreed text",
    "never_allowed": "the policy allows what a route declares to nobody",
    "public_not_found": "a public route does not exist",
    "public_declares": "a public route declares what it needs, so a policy is asked all the same",
    "public_below": "a public name opens nothing by itself, since what is below it has to be named",
}


class Defect(msgspec.Struct, frozen=True):
    """One thing that is wrong.

    ``code`` is one of :data:`CODES`, ``place`` what it is about: a route, a setting, a middleware, a class or a file.
    ``problem`` says it to people, and ``write`` is the line that would mend it, ``None`` where none is known.
    """

    code: str
    place: str
    problem: str
    write: str | None = None
    denies: Denies = "here"
