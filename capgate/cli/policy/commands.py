"""The commands about policy documents, and the words of their help. What they do is imported when they are called."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from ..entry import EntrypointName, EntrypointResult, Result, chosen


class Engine(str, enum.Enum):
    """The ``engine`` of :class:`capgate.WasmPool`, for the command line."""

    auto = "auto"
    wasmer = "wasmer"
    wasmtime = "wasmtime"


Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file; without it standard output.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Runs = Annotated[Engine, typer.Option(help="What runs a module; auto prefers wasmer.")]
BundleKeysFile = Annotated[
    str | None,
    typer.Option(
        "--bundle-keys",
        envvar="CAPGATE_BUNDLE_KEYS",
        help="JSON or TOML file of keys that verify bundles. With keys, an OPA signature is required.",
    ),
]
BundleScope = Annotated[
    str | None, typer.Option(envvar="CAPGATE_BUNDLE_SCOPE", help="The scope that bundles have to be signed for.")
]


def schema(output: Output = None, as_json: Json = False) -> None:
    """Write the JSON Schema of policy documents, by which editors complete and underline.

    A document names it with the key `$schema`; in TOML most editors want a first line `#:schema policy.schema.json`.

    Exit codes: 0 written; 2 usage, or a file that cannot be written.

    Try:

    - `capgate schema -o policy.schema.json`
    - `capgate schema | jq '.properties | keys'`
    """
    from .schema import run

    run(output, as_json=as_json)


def build(
    document: Annotated[Path, typer.Argument(help="Policy document: TOML if its name ends in .toml, else JSON.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the module.")] = Path("policy.wasm"),
    as_json: Json = False,
) -> None:
    """Build a policy document into a WebAssembly module, and print the SHA-256 to pin it by.

    The same document always gives the same bytes. Then, in the environment of the application:

        CAPGATE_ARTIFACT=policy.wasm CAPGATE_ARTIFACT_SHA256=...

    Exit codes: 0 built; 2 usage, a bad document, or a file that cannot be written; the one that is there stays.

    Try:

    - `capgate build policy.toml`
    - `capgate build policy.json -o build/policy.wasm --json | jq -r .sha256`
    """
    from .build import run

    run(document, output, as_json=as_json)


def explain(
    policy: Annotated[Path, typer.Argument(help="Policy document, module, or OPA bundle.")],
    question: Annotated[Path, typer.Argument(metavar="INPUT", help="The question in JSON; - is standard input.")],
    engine: Runs = Engine.auto,
    entrypoint: EntrypointName = None,
    entrypoint_result: EntrypointResult = Result.decision,
    as_json: Json = False,
) -> None:
    """Say how a policy answers a question, which rule or section decides, and what would have to change.

    The question is a policy input, such as `{"action": "db.read", "resource": {"kind": "sql_query", "id": "audit"}}`, a
    golden fixture, or a line of the log `capgate.decisions`. Each change that is offered was tried, and gives the
    opposite answer; with `--json` it is a JSON Patch of the document. A module has no rules to be read: of it only the
    answer is known.

    Exit codes: 0 allowed; 1 denied; 2 usage, or a file that cannot be used.

    Try:

    - `capgate explain policy.toml question.json`
    - `grep 8c1f0f7bb3b44ab6 decisions.log | capgate explain policy.toml -`
    - `capgate explain policy.json fixtures/refund.json --json | jq '.remedies[0]'`
    """
    from .explain import run

    entry = chosen(entrypoint, entrypoint_result)
    raise typer.Exit(run(policy, question, engine=engine.value, entrypoint=entry, as_json=as_json))


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Policy document, module, component, or OPA bundle.")],
    engine: Runs = Engine.auto,
    bundle_keys: BundleKeysFile = None,
    bundle_scope: BundleScope = None,
    as_json: Json = False,
) -> None:
    """Say what a policy file is: its digest, how it is asked, and what it needs; of a bundle, who signed it.

    A module is restricted and metered under the limits of the environment (`CAPGATE_FUEL` and the others), and one
    instance of it is made, as for an application; no question is asked. Modules that OPA compiled are asked for their
    entry points and builtins. What would be refused is told, and the rest is shown all the same.

    Exit codes: 0 an application would take it; 1 it would be refused; 2 usage, or a file that cannot be read.

    Try:

    - `capgate inspect bundle.tar.gz`
    - `capgate inspect bundle.tar.gz --bundle-keys keys.json --json | jq .bundle.signature`
    - `capgate inspect policy.wasm --json | jq -r '.entrypoints[]'`
    """
    from ..trust import bundle_keys as configured
    from .inspect import run

    raise typer.Exit(run(file, engine.value, configured(bundle_keys, bundle_scope), as_json=as_json))


def diff(
    old: Annotated[Path, typer.Argument(help="The policy as it was: document, module, or OPA bundle.")],
    new: Annotated[Path, typer.Argument(help="The policy as it is.")],
    replay: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Put these recorded questions to both: decision events, fixtures, a folder of them."
        ),
    ] = None,
    engine: Runs = Engine.auto,
    entrypoint: EntrypointName = None,
    entrypoint_result: EntrypointResult = Result.decision,
    as_json: Json = False,
) -> None:
    """Say which questions two policies answer differently: `+` allowed now, `-` denied now, `~` another reason.

    For two documents this is exact: every question there is, in classes that both tell apart. For modules nobody can
    tell, so `--replay` puts recorded questions to both, in the runtime and under the limits (`CAPGATE_FUEL` and the
    others) that serve requests: lines of the log `capgate.decisions`, or golden fixtures. Events have neither the hash
    of arguments nor attributes of resources, so these are not in the questions.

    Exit codes: 0 no difference; 1 some; 2 usage, or a file that cannot be used.

    Try:

    - `capgate diff policy.toml new.toml`
    - `capgate diff policy.json new.json --json | jq -e '.allowed == 0'`
    - `capgate diff policy.wasm new.wasm --replay decisions.jsonl --replay fixtures/`
    """
    from .diff import run

    entry = chosen(entrypoint, entrypoint_result)
    raise typer.Exit(run(old, new, replay or [], engine=engine.value, entrypoint=entry, as_json=as_json))


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (schema, build, inspect, explain, diff):
        app.command()(command)
