from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from starlette.config import Config, EnvironError
from starlette.config import Environ as WatchedEnviron

from capgate.checker.local import LocalPolicyChecker
from capgate.errors import ConfigError
from capgate.limits import FRACTIONS, RANGES, Limits
from capgate.model import Environment
from capgate.settings.select import select_checker
from capgate.settings.settings import VARIABLES, Settings
from capgate.settings.table import OF_CHECKER

from ..support.keys import KEYS

DIGEST = "0123456789abcdef" * 4
BUNDLE_KEYS = {"release": {"algorithm": "HS256", "key": "not much of a secret, but long enough"}}
LINE = KEYS[0].public.line

GOOD: dict[str, list[Any]] = {
    "policy": [None, {"sql": []}, "policy.json", Path("policy.json")],
    "artifact": [None, "policy.wasm", Path("policy.wasm")],
    "engine": ["auto", "wasmer", "wasmtime"],
    "pool_size": [1, 1_024],
    "reuse": [True, False],
    "entrypoint": [None, "allow", "orders/allow", "x" * 1_024, "d\u00e9cision/ok"],
    "entrypoint_result": ["decision", "denials"],
    "service": ["a", "Größe", "x" * 256],
    "mode": ["dev", "test", "prod", "canary-eu"],
    "public": [(), ("/health", "/files/{path:path}", "api.example.com/health")],
    "unknown_routes": ["hide", "pass"],
    "enforce": ["always", "monitor"],
    "enforce_from_env": [True, False],
    "enforce_after": [None, date(2027, 1, 31), datetime(2027, 1, 31, 8, tzinfo=timezone.utc)],
    "expose_reasons": [True, False],
    "www_authenticate": [None, "Bearer", 'Basic realm="orders", Bearer'],
    "capabilities_end_with_request": [True, False],
    "sample_allows": [0, 0.0, 0.25, 1, 1.0],
    "log_facts": [(), ("actor.roles", "actor.on_behalf_of", "resource.total", "args.id", "context.mfa", "actor.a")],
    "body_bytes": [0, 1, 1_073_741_824],
    "safe": [(), ("compute.long", "env.read env_var:TZ")],
    "cache_size": [None, 0, 1, 1_000_000],
    "openapi": [True, False],
    "strict": [True, False],
    "strict_paths": [True, False],
    "contract": [None, "contract.json", Path("contract.json")],
    "trusted_keys": [(LINE,), (LINE, KEYS[1].public.line), "keys.txt", Path("/etc/capgate/keys")],
    "signature_threshold": [1],
    "require_signature": [True, False],
    "require_facts": [True, False],
    "bundle_keys": [BUNDLE_KEYS, "keys.json", Path("/etc/capgate/bundle-keys.toml")],
    "bundle_scope": ["write", "x" * 256],
    "policy_name": ["orders", "a", "Orders-v2.1+x_y", "x" * 64],
    "store": ["store", Path("/srv/policies")],
    "store_poll": [0.05, 1, 3_600.0],
    "rollback_share": [0, 0.0, 0.01, 0.5, 1],
    "keep_expired": [True, False],
}

# C2, C3, A22: no zero that means "unlimited", no near misses, no switch that lets requests pass in case of doubt
BAD: dict[str, list[Any]] = {
    "policy": ["", b"x", 5, ["/a"], "a\0b", True],
    "artifact": ["", b"x", 5, {"a": 1}, "a\0b"],
    "artifact_sha256": [
        DIGEST.upper(),
        DIGEST[:-1],
        DIGEST + "0",
        DIGEST + "\n",
        " " + DIGEST[1:],
        "0" * 40,
        b"0" * 64,
        5,
        "",
    ],
    "engine": ["", "Wasmer", "wasmedge", None, 1, ["auto"]],
    "pool_size": [0, -1, 1_025, 1.0, True, "8", None, float("nan"), float("inf"), 1e30],
    "limits": [None, {}, {"fuel": 1}, 5],
    "reuse": [None, 0, 1, "true"],
    "entrypoint": ["", "a\n", "x" * 1_025, 5, b"x", ("a",)],
    "entrypoint_result": ["", "Decision", "allow", None, 5, b"decision", ["decision"]],
    "service": ["", None, 5, "a\nb", "x" * 257, "\x1b[31m", "\ud800"],
    "mode": ["", None, 5, "a\rb", "x" * 257, "\u202eprod"],
    "public": [
        None,
        "/health",
        {"/health"},
        ["/a", "/a"],
        ("GET /health",),
        ("",),
        ("health",),
        ("/static/*",),
        ("/a", "/a"),
        (5,),
        ("/a\n",),
    ],
    "unknown_routes": [None, "", "Pass", "404", "show", True, 404],
    "enforce": [None, "", "never", "Monitor", True, False, 0],
    "enforce_from_env": [None, 0, 1, "true"],
    "enforce_after": ["2027-01-31", 5, datetime(2027, 1, 31, 8), True],
    "expose_reasons": [None, 0, 1, "false"],
    "www_authenticate": ["", 5, True, "a b c", "Bearer\r\nX: y"],
    "capabilities_end_with_request": [None, 0, 1, "yes"],
    "sample_allows": [-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None],
    "log_facts": [
        None,
        "actor.roles",
        ["actor.roles"],
        ("actor",),
        ("roles",),
        ("",),
        (5,),
        ("actor.roles", "actor.roles"),
        ("actor.id",),
        ("resource.kind",),
        ("resource.on_behalf_of.a",),
        ("actor.Roles",),
        ("args.a\n",),
        ("user.tenant",),
        tuple(f"args.a{number}" for number in range(33)),
    ],
    "body_bytes": [-1, 1.5, True, "5", None, 1_073_741_825],
    "safe": [None, "compute.long", ["compute.long"], ("",), (5,), ("compute.long", "compute.long"), ("a\n",)],
    "cache_size": [-1, 1.5, True, "5", 1_000_001, float("nan")],
    "openapi": [None, 0, 1, "yes"],
    "strict": [None, 0, 1, "yes"],
    "strict_paths": [None, 0, 1, "yes"],
    "contract": ["", b"x", 5, {"a": 1}, "a\0b", True],
    "trusted_keys": ["", (), ("x",), [LINE], (LINE, LINE), (LINE[:-1],), LINE, (5,), 5, b"x", "a\0b"],
    "signature_threshold": [0, -1, 2, 33, True, 1.0, "1", None],
    "require_signature": [0, 1, "yes"],
    "require_facts": [None, 0, 1, "yes"],
    "bundle_keys": ["", b"x", 5, ("release",), "a\0b"],
    "bundle_scope": ["", "a\n", "x" * 257, 5],
    "policy_name": ["", ".", "a/b", "x" * 65, 5, b"x", "\u00e9", "a\n"],
    "store": ["", b"x", 5, {"a": 1}, "a\0b"],
    "store_poll": [0, -1, 0.01, 3_601, True, "1", None, float("nan")],
    "rollback_share": [-0.1, 0.001, 1.1, True, "0.5", None, float("nan")],
    "keep_expired": [None, 0, 1, "yes"],
}

#: Settings that mean something only together with others, and those.
TOGETHER: dict[str, dict[str, Any]] = {
    "enforce_after": {"enforce": "monitor"},
    "artifact_sha256": {"artifact": "policy.wasm"},
    "trusted_keys": {"artifact": "policy.wasm"},
    "store": {"policy_name": "orders", "trusted_keys": (LINE,)},
    "bundle_keys": {"artifact": "bundle.tar.gz"},
    "bundle_scope": {"artifact": "bundle.tar.gz", "bundle_keys": BUNDLE_KEYS},
    **{
        name: {"artifact": "policy.wasm", "trusted_keys": (LINE,)}
        for name in ("signature_threshold", "require_signature", "policy_name")
    },
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_usable_values(name: str, value: Any) -> None:
    assert getattr(Settings(**TOGETHER.get(name, {}), **{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_unusable_values_are_refused_by_name(name: str, value: Any) -> None:  # C2, A22
    given = {**TOGETHER.get(name, {}), name: value}
    with pytest.raises(ConfigError) as caught:
        Settings(**given)
    assert caught.value.setting == name
    assert caught.value.seen is value or caught.value.seen in (
        *(value if isinstance(value, (tuple, list)) else ()),
        value,
    )
    assert caught.value.valid


def test_there_is_a_case_for_every_setting() -> None:
    assert set(GOOD) | set(BAD) == set(Settings.__struct_fields__)


def test_one_source_of_policy() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(policy={"sql": []}, artifact="policy.wasm")
    assert caught.value.setting == "artifact"
    with pytest.raises(ConfigError) as caught:
        Settings(artifact_sha256=DIGEST)
    assert caught.value.setting == "artifact_sha256"
    with pytest.raises(ConfigError) as caught:
        Settings(artifact_sha256=DIGEST, policy={"sql": []})
    assert caught.value.setting == "artifact_sha256"
    assert Settings(artifact="policy.wasm", artifact_sha256=DIGEST).artifact_sha256 == DIGEST


def test_neither_source_is_for_those_who_bring_a_checker() -> None:
    with pytest.raises(ConfigError) as caught:
        select_checker(Settings())
    assert caught.value.setting == "policy"


def test_a_misspelled_keyword_is_an_error() -> None:  # C4
    with pytest.raises(TypeError):
        Settings(timout=5)  # type: ignore[call-arg]
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({}, pool_sise=5)
    assert caught.value.setting == "pool_sise"
    assert "pool_size" in caught.value.valid


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Settings().mode = "dev"  # type: ignore[misc]


def test_the_environment_that_policies_are_told() -> None:
    assert Settings(service="orders", mode="dev").environment == Environment("orders", "dev")


FROM_ENV: list[tuple[str, str, str, Any]] = [
    ("CAPGATE_POLICY", "policy.json", "policy", "policy.json"),
    ("CAPGATE_ARTIFACT", "policy.wasm", "artifact", "policy.wasm"),
    ("CAPGATE_ENGINE", "wasmtime", "engine", "wasmtime"),
    ("CAPGATE_POOL_SIZE", "3", "pool_size", 3),
    ("CAPGATE_REUSE", "true", "reuse", True),
    ("CAPGATE_REUSE", "0", "reuse", False),
    ("CAPGATE_ENTRYPOINT", "orders/allow", "entrypoint", "orders/allow"),
    ("CAPGATE_ENTRYPOINT_RESULT", "denials", "entrypoint_result", "denials"),
    ("CAPGATE_SERVICE", "orders", "service", "orders"),
    ("CAPGATE_MODE", "dev", "mode", "dev"),
    ("CAPGATE_PUBLIC", "/health, /ready", "public", ("/health", "/ready")),
    ("CAPGATE_UNKNOWN_ROUTES", "pass", "unknown_routes", "pass"),
    ("CAPGATE_ENFORCE", "always", "enforce", "always"),
    ("CAPGATE_EXPOSE_REASONS", "1", "expose_reasons", True),
    ("CAPGATE_WWW_AUTHENTICATE", 'Basic realm="a, b"', "www_authenticate", 'Basic realm="a, b"'),
    ("CAPGATE_CAPABILITIES_END_WITH_REQUEST", "true", "capabilities_end_with_request", True),
    ("CAPGATE_SAMPLE_ALLOWS", "0.25", "sample_allows", 0.25),
    ("CAPGATE_LOG_FACTS", "actor.roles, args.amount", "log_facts", ("actor.roles", "args.amount")),
    ("CAPGATE_BODY_BYTES", "0", "body_bytes", 0),
    ("CAPGATE_SAFE", "compute.long, env.read env_var:TZ", "safe", ("compute.long", "env.read env_var:TZ")),
    ("CAPGATE_CACHE_SIZE", "1000", "cache_size", 1_000),
    ("CAPGATE_OPENAPI", "false", "openapi", False),
    ("CAPGATE_REQUIRE_FACTS", "true", "require_facts", True),
    ("CAPGATE_STRICT", "true", "strict", True),
    ("CAPGATE_STRICT_PATHS", "false", "strict_paths", False),
    ("CAPGATE_STORE_POLL", "0.25", "store_poll", 0.25),
    ("CAPGATE_ROLLBACK_SHARE", "0", "rollback_share", 0.0),
    ("CAPGATE_KEEP_EXPIRED", "true", "keep_expired", True),
    ("CAPGATE_CONTRACT", "contract.json", "contract", "contract.json"),
]


@pytest.mark.parametrize(("variable", "text", "name", "value"), FROM_ENV)
def test_settings_from_the_environment(variable: str, text: str, name: str, value: Any) -> None:
    assert getattr(Settings.from_env({variable: text, "UNRELATED": "x"}), name) == value


@pytest.mark.parametrize("name", RANGES)
def test_each_limit_from_the_environment(name: str) -> None:
    low, high = RANGES[name]
    assert (
        getattr(
            Settings.from_env({f"CAPGATE_{name.upper()}": f"{low:.3f}" if name in FRACTIONS else f"{low:.0f}"}).limits,
            name,
        )
        == low
    )
    for text in (
        f"{high * 2:.0f}",
        "-1",
        "nan",
        "inf",
        "1e3",
        "unlimited",
        " 5000",
        "5000 ",
        "5_000",
        "\u0665\u0660\u0660\u0660",
    ):
        with pytest.raises(ConfigError) as caught:
            Settings.from_env({f"CAPGATE_{name.upper()}": text})
        assert (caught.value.setting, caught.value.seen) == (f"CAPGATE_{name.upper()}", text)


def test_every_setting_can_come_from_the_environment() -> None:
    digest = {"CAPGATE_ARTIFACT": "p.wasm", "CAPGATE_ARTIFACT_SHA256": DIGEST}
    assert Settings.from_env(digest).artifact_sha256 == DIGEST
    trust = {
        "CAPGATE_ARTIFACT": "p.wasm",
        "CAPGATE_TRUSTED_KEYS": LINE,
        "CAPGATE_SIGNATURE_THRESHOLD": "1",
        "CAPGATE_REQUIRE_SIGNATURE": "true",
        "CAPGATE_POLICY_NAME": "orders",
    }
    settings = Settings.from_env(trust)
    assert (settings.trusted_keys, settings.signature_threshold) == ((LINE,), 1)
    assert (settings.require_signature, settings.policy_name) == (True, "orders")
    store = {"CAPGATE_STORE": "policies", "CAPGATE_POLICY_NAME": "orders"}
    assert Settings.from_env({**store, "CAPGATE_TRUSTED_KEYS": LINE}).store == "policies"
    bundle = {"CAPGATE_ARTIFACT": "b.tar.gz", "CAPGATE_BUNDLE_KEYS": "keys.json", "CAPGATE_BUNDLE_SCOPE": "write"}
    settings = Settings.from_env(bundle)
    assert (settings.bundle_keys, settings.bundle_scope) == ("keys.json", "write")
    monitor = {"CAPGATE_ENFORCE": "monitor", "CAPGATE_ENFORCE_AFTER": "2027-01-31"}
    settings = Settings.from_env(monitor, enforce_from_env=True)
    assert (settings.enforce, settings.enforce_after) == ("monitor", date(2027, 1, 31))
    tested = (
        {variable for variable, *_ in FROM_ENV}
        | set(store)
        | set(monitor)
        | set(bundle)
        | set(digest)
        | set(trust)
        | {f"CAPGATE_{name.upper()}" for name in RANGES}
    )
    assert tested == set(VARIABLES)


@pytest.mark.parametrize("variable", VARIABLES)
def test_an_empty_variable_is_an_error(variable: str) -> None:  # C5
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({variable: ""})
    assert (caught.value.setting, caught.value.seen) == (variable, "")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CAPGATE_ENGINE", "WASMER"),
        ("CAPGATE_POOL_SIZE", "0"),
        ("CAPGATE_POOL_SIZE", "many"),
        ("CAPGATE_POOL_SIZE", "9" * 5_000),
        ("CAPGATE_REUSE", "yes"),
        ("CAPGATE_EXPOSE_REASONS", "TRUE"),
        ("CAPGATE_SAMPLE_ALLOWS", "NaN"),
        ("CAPGATE_SAMPLE_ALLOWS", "2"),
        ("CAPGATE_PUBLIC", "/a,,/b"),
        ("CAPGATE_PUBLIC", "/static/*"),
        ("CAPGATE_ARTIFACT_SHA256", DIGEST.upper()),
        ("CAPGATE_MODE", "a\nb"),
        ("CAPGATE_ENFORCE", "monitor"),
        ("CAPGATE_UNKNOWN_ROUTES", "hidden"),
        ("CAPGATE_ENFORCE", "MONITOR"),
        ("CAPGATE_ENFORCE_AFTER", "2027-01-31"),
        ("CAPGATE_ENFORCE_AFTER", "2027-02-31"),
        ("CAPGATE_ENFORCE_AFTER", "tomorrow"),
    ],
)
def test_a_bad_variable_is_named_with_what_it_holds(variable: str, text: str) -> None:  # C2
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({variable: text})
    assert (caught.value.setting, caught.value.seen) == (variable, text)


def test_keywords_win_over_the_environment() -> None:  # C5
    environ = {"CAPGATE_MODE": "dev", "CAPGATE_SERVICE": "orders", "CAPGATE_ENGINE": "nonsense", "CAPGATE_FUEL": "5000"}
    settings = Settings.from_env(environ, mode="prod", engine="wasmtime", limits=Limits(deadline=1.0))
    assert (settings.mode, settings.service, settings.engine) == ("prod", "orders", "wasmtime")
    assert settings.limits == Limits(deadline=1.0)


def test_a_bad_keyword_is_not_blamed_on_the_environment() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"CAPGATE_MODE": "dev"}, pool_size=0)
    assert caught.value.setting == "pool_size"


@pytest.mark.parametrize(
    ("variable", "closest"), [("CAPGATE_FULE", "CAPGATE_FUEL"), ("CAPGATE_TIMOUT", None), ("CAPGATE_", None)]
)
def test_an_unknown_variable_is_an_error_that_lists_the_known(variable: str, closest: str | None) -> None:  # C4
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({variable: "1"})
    assert caught.value.setting == variable
    assert all(known in caught.value.valid for known in VARIABLES)
    assert closest is None or caught.value.valid.startswith(closest)


def test_the_value_of_an_unknown_variable_is_not_told() -> None:  # O4
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"CAPGATE_API_TOKEN": "t0p-secret"})
    assert "t0p-secret" not in str(caught.value) + repr(vars(caught.value))


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPGATE_SERVICE", "from-process")
    assert Settings.from_env().service == "from-process"


def test_select_checker_takes_what_settings_describe() -> None:
    checker = select_checker(Settings(policy={"name": "p", "sql": ["a"]}, cache_size=0))
    assert isinstance(checker, LocalPolicyChecker)
    assert checker.policy.name == "p"


# -- monitoring


@pytest.mark.parametrize("overrides", [{}, {"enforce_from_env": False}, {"enforce_after": date(2027, 1, 31)}])
def test_no_variable_alone_keeps_denials_from_counting(overrides: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"CAPGATE_ENFORCE": "monitor"}, **overrides)
    assert (caught.value.setting, caught.value.seen) == ("CAPGATE_ENFORCE", "monitor")
    assert "enforce_from_env" in caught.value.valid


def test_the_permission_cannot_be_given_by_a_variable() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"CAPGATE_ENFORCE": "monitor", "CAPGATE_ENFORCE_FROM_ENV": "true"})
    assert caught.value.setting == "CAPGATE_ENFORCE_FROM_ENV"


def test_with_the_permission_the_variable_says() -> None:
    for text, monitors in (("monitor", True), ("always", False)):
        assert Settings.from_env({"CAPGATE_ENFORCE": text}, enforce_from_env=True).monitors is monitors
    assert Settings.from_env({}, enforce_from_env=True).monitors is False


def test_what_the_code_says_counts_whatever_the_environment_holds() -> None:
    environ = {"CAPGATE_ENFORCE": "monitor"}
    assert Settings.from_env(environ, enforce="always").monitors is False
    assert Settings.from_env({"CAPGATE_ENFORCE": "always"}, enforce="monitor").monitors is True


def test_denials_count_by_default() -> None:
    assert Settings().monitors is False
    assert Settings().enforced_from is None


@pytest.mark.parametrize(
    ("given", "moment"),
    [
        (date(1970, 1, 2), 86_400.0),
        (datetime(1970, 1, 1, 1, tzinfo=timezone.utc), 3_600.0),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0.0),
        (None, None),
    ],
)
def test_a_date_begins_at_midnight_utc(given: date | None, moment: float | None) -> None:
    assert Settings(enforce="monitor", enforce_after=given).enforced_from == moment


# -- settings and a checker that is given


def test_every_setting_is_about_the_checker_or_goes_with_one() -> None:
    """A new setting belongs to one of the two, and this says so."""
    with_checker = {
        "limits", "service", "mode", "public", "enforce", "enforce_from_env", "enforce_after", "expose_reasons",
        "www_authenticate", "sample_allows", "body_bytes", "capabilities_end_with_request", "openapi", "strict",
        "strict_paths", "contract", "unknown_routes", "log_facts",
    }  # fmt: skip
    assert with_checker.isdisjoint(OF_CHECKER)
    assert with_checker | set(OF_CHECKER) == set(Settings.__struct_fields__)


def test_without_those_about_the_checker_the_others_stay() -> None:
    settings = Settings(policy={"sql": []}, engine="wasmtime", mode="dev", public=("/health",))
    assert settings.about_checker() == ("policy", "engine")
    rest = settings.without_checker()
    assert (rest.about_checker(), rest.mode, rest.public) == ((), "dev", ("/health",))
    assert Settings().about_checker() == ()


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [("unknown_routes", "PASS", "pass"), ("unknown_routes", "hidden", "hide"), ("enforce", "Monitor", "monitor")],
)
def test_a_choice_that_is_none_names_the_nearest(name: str, value: str, nearest: str) -> None:
    made: Any = Settings
    for make in (
        lambda: made(**{name: value}),
        lambda: Settings.from_env({f"CAPGATE_{name.upper()}": value}, enforce_from_env=True),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert caught.value.valid.startswith(nearest)
    with pytest.raises(ConfigError) as caught:
        made(**{name: "xyz"})
    assert caught.value.valid.startswith("one of")


def test_lists_are_taken() -> None:  # P-17
    settings = Settings(public=["/docs"])  # type: ignore[arg-type]
    assert settings.public == ("/docs",)
    assert settings == Settings(public=("/docs",))


@pytest.mark.parametrize(
    ("mode", "nearest"),
    [
        ("DEV", "dev"),
        ("Prod", "prod"),
        ("dev # comment", "dev"),
        ("prod#", "prod"),
        (" dev", "dev"),
        ('"test"', "test"),
    ],
)
def test_another_spelling_of_a_mode_is_none(tmp_path: Path, mode: str, nearest: str) -> None:  # P-4
    path = tmp_path / "p.json"
    path.write_text('{"modes": ["Frozen"], "rules": []}')
    for settings, name in (
        (lambda: Settings(mode=mode), "mode"),
        (lambda: Settings(mode=mode, policy={"modes": ["frozen"]}), "mode"),
        (lambda: Settings.from_env({"CAPGATE_MODE": mode, "CAPGATE_ARTIFACT": "p.wasm"}), "CAPGATE_MODE"),
        (lambda: select_checker(Settings(mode=mode, policy=path)), "mode"),
    ):
        with pytest.raises(ConfigError) as caught:
            settings()
        assert (caught.value.setting, caught.value.seen, caught.value.nearest) == (name, mode, nearest)


def test_a_mode_of_ones_own_is_as_it_is_declared(tmp_path: Path) -> None:  # P-4
    policy: dict[str, Any] = {"modes": ["DEV", "C#", "Frozen"], "sql": "any"}
    path = tmp_path / "p.json"
    path.write_text(json.dumps(policy))
    for mode in ("DEV", "dev", "C#", "Frozen", "canary # 3", "production"):
        assert Settings(mode=mode, policy=policy).mode == mode
        select_checker(Settings(mode=mode, policy=path))
    for given in (policy, path):
        with pytest.raises(ConfigError) as caught:
            select_checker(Settings(mode="frozen", policy=given))
        assert (caught.value.setting, caught.value.nearest) == ("mode", "Frozen")
    for broken in (5, [5], "DEV", None):  # for whoever reads the document to refuse
        assert Settings(mode="canary", policy={"modes": broken}).mode == "canary"


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ('["/docs","/static"]', "/docs"),
        ("'/docs','/static'", "/docs"),
        ("/docs /static", None),
        ("[/docs]", "/docs"),
    ],
)
def test_a_list_in_another_notation_is_none(text: str, nearest: str | None) -> None:  # P-17
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"CAPGATE_POLICY": "p.json", "CAPGATE_PUBLIC": text})
    assert caught.value.setting == "CAPGATE_PUBLIC"
    with pytest.raises(ConfigError) as caught:
        Settings(public=tuple(text.split(",")))
    assert (caught.value.setting, caught.value.nearest) == ("public", nearest)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("export CAPGATE_MODE=dev", "export CAPGATE_MODE"),
        ("capgate_mode=dev", "capgate_mode"),
        ("Capgate_Mode = dev", "Capgate_Mode"),
    ],
)
def test_a_line_that_the_reader_of_a_file_passes_over_is_an_error(tmp_path: Path, line: str, name: str) -> None:  # P-18
    (tmp_path / ".env").write_text(f"CAPGATE_POLICY=p.json\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(Config(tmp_path / ".env", environ={}))
    assert (caught.value.setting, caught.value.nearest) == (name, "CAPGATE_MODE")


@pytest.mark.parametrize("path", ["GET /healthz", "get /healthz", "POST  /healthz"])
def test_a_public_route_has_no_method(path: str) -> None:  # P-17
    with pytest.raises(ConfigError) as caught:
        Settings(public=(path,))
    assert (caught.value.setting, caught.value.nearest) == ("public", "/healthz")


@pytest.mark.parametrize(
    "name",
    [
        *("CAPGATE_SERVICE_HOST", "CAPGATE_SERVICE_PORT", "CAPGATE_SERVICE_PORT_HTTP", "CAPGATE_PORT"),
        *("CAPGATE_PORT_8080_TCP", "CAPGATE_PORT_8080_TCP_ADDR", "CAPGATE_PORT_53_UDP_PROTO"),
        *("CAPGATE_ADMIN_SERVICE_HOST", "CAPGATE_ADMIN_PORT", "CAPGATE_ADMIN_PORT_80_TCP_PORT"),
    ],
)
def test_what_kubernetes_says_of_a_service_is_none_of_ours(name: str) -> None:  # P-18
    assert Settings.from_env({name: "tcp://10.0.0.7:8080", "CAPGATE_MODE": "dev"}).mode == "dev"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("CAPGATE_POOLSIZE", "CAPGATE_POOL_SIZE"), ("CAPGATE_PORTS", None), ("CAPGATE_SERVICES", "CAPGATE_SERVICE")],
)
def test_an_unknown_variable_is_an_error_with_the_nearest_name(name: str, nearest: str | None) -> None:  # P-18
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({name: "8"})
    assert caught.value.setting == name
    assert nearest is None or caught.value.nearest == nearest


# -- a file of variables


def config_of(folder: Path, text: str, environ: Mapping[str, str] | None = None, prefix: str = "") -> Config:
    """Starlette's reader of ``.env``, as applications have it."""
    path = folder / ".env"
    path.write_text(text)
    return Config(path, environ={} if environ is None else environ, env_prefix=prefix)


def test_settings_from_a_file_of_variables(tmp_path: Path) -> None:  # P-17
    text = "# why\nDATABASE_URL=sqlite://\nCAPGATE_SERVICE = 'orders'\nCAPGATE_PUBLIC=/a,/b\nCAPGATE_FUEL=\"5000\"\n"
    settings = Settings.from_env(config_of(tmp_path, text))
    assert (settings.service, settings.public, settings.limits.fuel) == ("orders", ("/a", "/b"), 5_000)


def test_the_environment_wins_over_the_file_and_keywords_over_both(tmp_path: Path) -> None:
    config = config_of(tmp_path, "CAPGATE_SERVICE=file\nCAPGATE_MODE=test\n", {"CAPGATE_SERVICE": "environment"})
    settings = Settings.from_env(config)
    assert (settings.service, settings.mode) == ("environment", "test")
    assert Settings.from_env(config, service="code").service == "code"


@pytest.mark.parametrize(
    ("line", "setting", "seen"),
    [
        ("CAPGATE_POOL_SIZE=many", "CAPGATE_POOL_SIZE", "many"),
        ("CAPGATE_SERVICE=", "CAPGATE_SERVICE", ""),
        ("CAPGATE_FULE=1", "CAPGATE_FULE", "CAPGATE_FULE"),
        ("CAPGATE_ENFORCE=monitor", "CAPGATE_ENFORCE", "monitor"),
        ("CAPGATE_POOL_SIZE=0", "CAPGATE_POOL_SIZE", "0"),
        ("CAPGATE_ARTIFACT_SHA256=" + "0" * 64, "artifact_sha256", "0" * 64),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, line: str, setting: str, seen: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(config_of(tmp_path, line + "\n"))
    assert (caught.value.setting.lower().removeprefix("capgate_"), caught.value.seen) == (
        setting.lower().removeprefix("capgate_"),
        seen,
    )


@pytest.mark.parametrize("prefix", ["APP_", "CAPGATE_"])
def test_a_reader_of_other_variables_is_an_error(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(config_of(tmp_path, "CAPGATE_SERVICE=x\n", prefix=prefix))
    assert caught.value.setting == "environ"


def test_what_was_read_cannot_change_any_more(tmp_path: Path) -> None:
    """Starlette's own environment notes what was read, through its reader as well."""
    environ = WatchedEnviron({"CAPGATE_SERVICE": "x"})
    assert Settings.from_env(config_of(tmp_path, "", environ)).service == "x"
    with pytest.raises(EnvironError):
        environ["CAPGATE_SERVICE"] = "y"
