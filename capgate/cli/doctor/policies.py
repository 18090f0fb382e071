"""Says why a gate does not start, what of its policy is not certain, and what the policy allows to nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from ...artifact.load import read_policy
from ...errors import (
    ArtifactError,
    ArtifactNotFound,
    ConfigError,
    ContractDrift,
    DigestMismatch,
    ManifestError,
    PolicyError,
    SignatureInvalid,
    WasmError,
)
from ...middleware.startup import explain
from ...model import ANONYMOUS, Allow, PolicyInput, canonical
from ...policy.analysis.advice import Account, account_for
from ...routes.route_report import RouteReport
from ...settings.settings import Settings
from ...settings.table import ALWAYS, BY_NAME
from ...settings.trust import configured_artifact
from .defect import Defect
from .wrong_routes import name_of

#: The lists of a rule that depend on who asks and when, and not on what a route declares.
_OF_A_REQUEST: Final = frozenset({"actors", "modes", "when"})


def failed_start(error: BaseException) -> Defect:
    """Say why the gate does not start."""
    code, place, write = _classified(error)
    return Defect(code, place, explain(error), write, "all")


def _classified(error: BaseException) -> tuple[str, str, str | None]:
    path = getattr(error, "path", None)
    place = str(path) if path else type(error).__name__
    if isinstance(error, ConfigError):
        return _of_setting(error)
    if isinstance(error, ContractDrift):
        return "contract_drift", error.field, "capgate contract export MODULE:APP -o contract.json"
    if isinstance(error, ArtifactNotFound):
        return "policy_missing", place, "capgate build policy.toml -o policy.wasm" if place.endswith(".wasm") else None
    if isinstance(error, DigestMismatch):
        return "policy_unverified", place, f'artifact_sha256="{error.actual}"  # if that is the one you mean'
    if isinstance(error, SignatureInvalid):
        return "policy_unverified", place, None
    if isinstance(error, ManifestError) and error.field == "expires":
        return "policy_expired", place, "capgate sign ... --expires DATE, and publish it"
    if isinstance(error, (ArtifactError, WasmError, PolicyError)):
        return "policy_rejected", place, None
    return "cannot_start", place, None


def _of_setting(error: ConfigError) -> tuple[str, str, str | None]:
    write = None if error.nearest is None else str(error.nearest)
    if error.path is not None or error.key is not None:
        place = error.setting if error.path is None else error.path
        return "policy_rejected", place if error.line is None else f"{place}:{error.line}", write
    if error.setting == "policy" and error.seen is None:
        return "policy_missing", "policy", 'Settings(policy="policy.toml")'
    if error.setting == "checker":
        return "wrong_setting", error.setting, "settings=Settings(...) or checker=..., not both"
    return "wrong_setting", error.setting, write


def uncertain_policy(settings: Settings) -> Iterator[Defect]:
    """Yield what leaves the policy to whoever may write its file, and a gate that only monitors."""
    unsigned = settings.trusted_keys is None and settings.bundle_keys is None
    if settings.artifact is not None and settings.artifact_sha256 is None and unsigned:
        digest = configured_artifact(settings).sha256
        problem = "no digest and no key is named, so whatever is in the file is asked"
        yield Defect("policy_unpinned", str(settings.artifact), problem, f'artifact_sha256="{digest}"', "none")
    if settings.store is not None and settings.artifact_sha256 is None and unsigned:
        problem = "no key is named, so whoever may write the store decides"
        yield Defect("policy_unpinned", str(settings.store), problem, 'trusted_keys="keys.txt"', "none")
    if settings.enforce != ALWAYS and settings.enforce_after is None:
        problem = "no denial counts, for ever"
        yield Defect("only_monitored", BY_NAME["enforce"].name, problem, 'enforce="always"', "none")


def never_allowed(settings: Settings, routes: Iterable[RouteReport]) -> Iterator[Defect]:
    """Yield the declarations that the document of ``settings`` allows to nobody. Of a module that is not known."""
    document = _document(settings)
    if document is None:
        return
    accounts: dict[bytes, Account] = {}  # by question: many routes ask the same
    for route in routes:
        for requirement in (*route.requirements, *route.asked):
            if requirement.template:
                continue
            question = PolicyInput(requirement.action, ANONYMOUS, requirement.fixed)
            key = canonical(question)
            account = accounts[key] = accounts.get(key) or account_for(document, question)
            if not _may_be_allowed(account):
                resource = requirement.fixed
                on = "" if resource is None else f" on {resource.kind}" + (f":{resource.id}" if resource.id else "")
                problem = f"the policy allows {requirement.action}{on} to nobody: {account.by}"
                yield Defect("never_allowed", name_of(route), problem, _remedy(account))


def _document(settings: Settings) -> dict[str, Any] | None:
    given = settings.policy
    if given is None or isinstance(given, dict):
        return given
    file = read_policy(given, limits=settings.limits)
    return file.raw if file.document is not None else None


def _may_be_allowed(account: Account) -> bool:
    """Say whether who asks, or in which mode, or a condition might turn the answer round."""
    if isinstance(account.result, Allow):
        return True
    if account.rule is not None:  # a rule denies it to whoever is anonymous, perhaps to nobody else
        return True
    return any(rule.effect == "allow" and _OF_A_REQUEST.issuperset(rule.unmet) for rule in account.rules)


def _remedy(account: Account) -> str | None:
    return account.remedies[0][0].ways[0].words if account.remedies else None
