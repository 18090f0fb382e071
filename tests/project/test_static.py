"""What can be told from the code itself, and under other ways of running it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import capgate
from capgate.middleware import middleware, request, seal
from capgate.routes import dispatch

PACKAGE = Path(capgate.__file__).parent
#: All of the gate: no file of these rooms calls an application but those that are named below.
ROOMS = ("checker", "enforcement", "middleware", "routes", "settings", "events.py", "errors.py", "model.py")
MODULES = [
    str(path.relative_to(PACKAGE).with_suffix(""))
    for room in ROOMS
    for path in sorted([PACKAGE / room] if room.endswith(".py") else (PACKAGE / room).rglob("*.py"))
]


LIFESPAN = "scope.get('type') == 'lifespan'"


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def inside_if(tree: ast.AST, name: str) -> ast.If:
    """The innermost ``if`` around the only call of ``name``."""
    assert len(calls(tree, name)) == 1
    *_, innermost = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and any(calls(part, name) for part in node.body)
    ]
    return innermost


def assigned(tree: ast.AST, name: str) -> list[str]:
    """What is assigned to ``name``, but for its declaration."""
    return [
        ast.unparse(node.value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
        if name
        in [ast.unparse(target) for target in ([node.target] if isinstance(node, ast.AnnAssign) else node.targets)]
    ]


def test_what_a_router_found_is_run_in_one_place_and_only_once_it_was_admitted() -> None:  # S21
    tree = ast.parse(Path(dispatch.__file__).read_text())
    passing = inside_if(tree, "run")
    assert ast.unparse(passing.test) == "admitted is True and run is not None"
    adding, put, attempt, leaving = passing.body
    assert isinstance(adding, ast.If)
    assert [ast.unparse(part) for part in adding.body] == ["scope.update(added)"]
    assert ast.unparse(put) == "scope[SEAT] = inner"
    assert isinstance(attempt, ast.Try)
    assert [ast.unparse(part) for part in attempt.body] == ["await run(scope, receive, send)"]
    assert [ast.unparse(part) for part in attempt.finalbody] == ["scope[SEAT] = seat"]
    assert isinstance(leaving, ast.Return)
    assert {*assigned(tree, "admitted")} == {
        "False",
        "await request.admit(scope, receive, 'declared', own, params)",
        "await request.admit(scope, receive, status, requirements, params)",
        "not request.denied",
        "request.admit_now(scope, receive, 'declared', own, params)",
        "request.admit_now(scope, receive, status, requirements, params)",
    }
    # It is either the route that was found, or the framework with a view that has nothing but that route.
    assert assigned(tree, "(run, added)") == ["(entry.top.handle, child)"]
    assert assigned(tree, "run") == ["None", "functools.partial(self._run, view)"]
    assert assigned(tree, "view") == ["None", "self._view(reached, table, scope)"]
    assert {*assigned(tree, "(entry, _, child)")} == {"reached"}
    assert not calls(tree, "self._run")
    made = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in ("View", "Rest")
    ]
    assert sorted(map(ast.unparse, made)) == [
        "Rest(self.router, table, scope, reached)",
        "View((pin(reached),), self.router.__dict__.get('form_limits'))",
    ]
    # The router itself is run only where there is no seat.
    app = [
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) == "self.router.app"
    ]
    assert len(app) == 1
    unseated = next(node for node in ast.walk(tree) if isinstance(node, ast.If) and calls(node, "self.router.app"))
    assert ast.unparse(unseated.test) == "waiting is None or waiting.decided or scope['type'] == 'lifespan'"


def test_a_gated_scope_is_passed_on_in_one_place_and_only_under_a_seal() -> None:  # S21
    tree = ast.parse(Path(middleware.__file__).read_text())
    passing = inside_if(tree, "self.app")
    assert ast.unparse(passing.test) == "entered is not None"
    (attempt,) = [node for node in passing.body if isinstance(node, ast.Try)]
    assert [ast.unparse(part) for part in attempt.body] == ["await self.app(scope, receive, request.send)"]
    assert assigned(tree, "entered") == ["request.enter_now()", "await request.enter(receive)"]
    # The application is handed on once besides, to the lifespan, in the branch of that type of scope.
    lifespan = next(node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == LIFESPAN)
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) == "self.app"]
    inside = [
        node for node in ast.walk(lifespan) if isinstance(node, ast.Attribute) and ast.unparse(node) == "self.app"
    ]
    assert (len(uses), len(inside)) == (3, 1)  # set, passed to the lifespan, called
    # The only error that is looked at is the application's own, after it was called.
    assert [node for node in ast.walk(tree) if isinstance(node, ast.Try)] == [attempt]


def test_messages_go_to_the_server_in_a_few_places_of_the_seal_and_nowhere_else() -> None:  # S21
    tree = ast.parse(Path(seal.__file__).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    sending = {function.name for function in functions if "self._send" in map(ast.unparse, ast.walk(function))}
    assert sending == {"send", "_send_sealed", "_send_denied", "finish", "refuse_now", "replace"}
    request_tree = ast.parse(Path(request.__file__).read_text())
    assert not [node for node in ast.walk(request_tree) if isinstance(node, ast.Attribute) and node.attr == "_send"]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_of_the_gate_calls_an_application_but_its_own(module: str) -> None:  # S21
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    assert len(calls(tree, "self.app")) == (module == "middleware/middleware")
    assert len(calls(tree, "app")) == (module == "middleware/startup")
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]


SCRIPT = """
import asyncio, json, sys
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from capgate import CapabilityMiddleware, Settings, requires

def endpoint(query):
    async def endpoint(request):
        return PlainTextResponse("ran")
    return requires("db.read", resource=f"sql_query:{query}")(endpoint) if query else endpoint

routes = [Route(f"/{name}", endpoint(name)) for name in ("good", "bad", "")]
app = Starlette(routes=routes)
app.add_middleware(CapabilityMiddleware, settings=Settings(policy={"sql": ["good"]}, expose_reasons=True))

async def call(scope):
    sent = []
    async def send(message): sent.append(message)
    async def receive(): return {"type": "http.request"}
    await app(scope, receive, send)
    if sent[0]["type"] != "http.response.start": return sent[0]["code"], sent[0]["reason"]
    body = sent[1]["body"]
    return sent[0]["status"], json.loads(body)["reason"] if body.startswith(b"{") else body.decode()

async def main():
    paths = ("/good", "/bad", "/", "/nowhere", "/good\\0", "//good")
    scopes = [{"type": "http", "method": m, "path": p, "headers": []} for m in ("GET", "POST") for p in paths]
    scopes += [{"type": "websocket", "path": "/good", "headers": []}, {"type": "http", "path": "/good", "headers": []}]
    scopes += [{"type": "http", "method": "GET", "headers": []}]
    print(json.dumps([await call(scope) for scope in scopes]))

asyncio.run(main())
"""

EXPECTED = [
    [200, "ran"],
    [403, "not_in_allowlist"],
    [403, "undeclared_route"],
    [403, "undeclared_route"],
    [403, "malformed_input"],
    [403, "undeclared_route"],
    [403, "undeclared_route"],
    [403, "undeclared_route"],
    [403, "undeclared_route"],
    [403, "undeclared_route"],
    [403, "malformed_input"],
    [403, "undeclared_route"],
    [1008, "undeclared_route"],
    [403, "malformed_input"],
    [403, "malformed_input"],
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        ([], {}),
        (["-OO"], {}),
        (["-OO", "-W", "error"], {"PYTHONHASHSEED": "1"}),
        (["-X", "dev"], {"PYTHONHASHSEED": "2"}),
        (["-X", "utf8=0"], {"LC_ALL": "C", "LANG": "C", "TZ": "Pacific/Kiritimati"}),
    ],
    ids=["plain", "-OO", "-W error", "-X dev", "another locale"],
)
def test_the_same_decisions_however_python_is_run(flags: list[str], environment: dict[str, str]) -> None:  # C12
    process = subprocess.run(
        [sys.executable, *flags, "-c", SCRIPT],
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == EXPECTED


def test_fastapi_is_not_imported_unless_it_is_used() -> None:
    script = "import sys, capgate; raise SystemExit('fastapi' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(PACKAGE.parent), "PATH": os.environ["PATH"]}, timeout=120
    )
    assert process.returncode == 0


URLS = frozenset({"url", "base_url", "hostname", "URL", "Request", "HTTPConnection", "WebSocket"})
#: What makes a request for a function of the application's, and looks at nothing of it.
GIVES_REQUESTS = {"enforcement/given_facts": frozenset({"Request", "HTTPConnection"})}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_of_the_gate_puts_a_url_together(module: str) -> None:  # C11
    """What ``request.url`` is made of depends on the version of starlette and on the ``Host`` header (S4)."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    given = GIVES_REQUESTS.get(module, frozenset())
    assert not names & URLS
    assert not (imported - given) & {"URL", "Request", "HTTPConnection", "WebSocket"}
