"""The gate of files below a folder: what is asked, and that no way leads out of it."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from capgate.capabilities import CapabilityDenied, using
from capgate.capabilities.files import GatedFiles
from capgate.errors import ConfigError
from capgate.model import Reason, Resource
from capgate.routes.declare import requires

from ..support.gates import events, gated, make_checker
from .folders import ANY, READ, WRITE, tree
from .kinds import KINDS
from .listening import Listening, allowing, reason

# -- what is asked


@pytest.mark.parametrize(
    ("mode", "actions"),
    [
        *[(mode, [READ]) for mode in ("r", "rb", "rt")],
        *[(mode, [WRITE]) for mode in ("w", "wb", "a", "ab", "x", "xb")],
        *[(mode, [READ, WRITE]) for mode in ("r+", "rb+", "w+", "w+b", "a+", "x+")],
    ],
)
def test_each_mode_is_the_builtins(root: Path, files: GatedFiles, mode: str, actions: list[str]) -> None:
    def builtin(name: str, mode: str) -> Any:
        return open(root / name, mode)  # closed by whoever called this

    results = []
    ways: tuple[Callable[[str, str], Any], ...] = (files.open, builtin)
    for way in ways:
        (root / "f").unlink(missing_ok=True)
        if "x" not in mode:
            (root / "f").write_text("before")
        with allowing(ANY) as listening:
            with way("f", mode) as file:
                facts = [
                    file.mode,
                    file.readable(),
                    file.writable(),
                    file.tell(),
                    file.encoding if "b" not in mode else None,
                ]
                if file.writable():
                    file.write(b"12" if "b" in mode else "12")
                if file.readable():
                    file.seek(0)
                    facts.append(file.read())
            results.append((facts, (root / "f").read_text(), (root / "f").stat().st_mode))
            if way == files.open:
                assert listening.asked == [(action, "f") for action in actions]
    assert results[0] == results[1]


@pytest.mark.parametrize("mode", ["r", "rb", "w", "wb", "a", "x", "r+", "w+", "a+", "x+"])
def test_what_is_denied_is_neither_opened_nor_made_nor_cut_off(root: Path, files: GatedFiles, mode: str) -> None:
    before = tree(root.parent)
    with allowing({"fs": ["other"]}):
        for path in ("a.txt", "new", "pub/x", "pub/new", "nowhere/new", "a.txt/new"):
            with pytest.raises(CapabilityDenied) as caught:
                files.open(path, mode)
            assert caught.value.decision.input.resource.id == path
            assert reason(caught.value) == Reason.NOT_IN_ALLOWLIST
    assert tree(root.parent) == before


@pytest.mark.parametrize("mode", ["", "rw", "rwb", "q", "rbt", "w++"])
def test_what_is_no_mode_is_not_asked_for(files: GatedFiles, mode: str) -> None:
    with allowing(ANY) as listening, pytest.raises(ValueError, match="mode"):
        files.open("a.txt", mode)
    assert listening.asked == []


def test_the_rest_of_the_methods(root: Path, files: GatedFiles) -> None:
    with allowing(ANY) as listening:
        files.write_text("t", "é")
        assert files.read_text("t") == "é"
        files.write_bytes("t", b"\xff")
        assert files.read_bytes("t") == b"\xff"
        assert files.exists("t")
        assert not files.exists("u")
        assert not files.exists("t/u")
        assert files.stat("t").st_size == 1
        files.mkdir("d")
        assert sorted(files.listdir()) == ["a.txt", "d", "priv", "pub", "t"]
        assert files.listdir("pub/deep/..") == files.listdir("pub")
        files.rename("t", "d/t")
        files.unlink("d/t")
        with files.open("lines", "w", newline="\r\n", encoding="utf-16", errors="replace") as file:
            file.write("x\n")
        assert (root / "lines").read_text("utf-16") == "x\n"
    names = [(WRITE, "t"), (READ, "t"), (WRITE, "t"), (READ, "t"), (READ, "t"), (READ, "u"), (READ, "t/u"), (READ, "t")]
    more = [
        (WRITE, "d"),
        (READ, "."),
        (READ, "pub"),
        (READ, "pub"),
        (READ, "t"),
        (WRITE, "t"),
        (WRITE, "d/t"),
        (WRITE, "d/t"),
    ]
    assert listening.asked == [*names, *more, (WRITE, "lines")]
    assert tree(root)["d"] == "/"


@pytest.mark.parametrize(
    "act",
    [
        lambda files: files.read_text("priv/x"),
        lambda files: files.read_bytes("priv/x"),
        lambda files: files.exists("priv/x"),
        lambda files: files.exists("priv/nothing"),
        lambda files: files.stat("priv/x"),
        lambda files: files.listdir("priv"),
        lambda files: files.listdir(),
        lambda files: files.write_text("priv/x", "no"),
        lambda files: files.write_bytes("priv/y", b"no"),
        lambda files: files.unlink("priv/x"),
        lambda files: files.mkdir("priv/z"),
        lambda files: files.rename("priv/x", "pub/x"),
        lambda files: files.rename("pub/x", "priv/x"),
        lambda files: files.rename("pub/x", "priv/nowhere/x"),
    ],
)
def test_each_method_is_denied(root: Path, files: GatedFiles, act: Callable[[GatedFiles], Any]) -> None:
    before = tree(root.parent)
    with allowing({"fs": ["pub/x"]}), pytest.raises(CapabilityDenied) as caught:
        act(files)
    assert reason(caught.value) == Reason.NOT_IN_ALLOWLIST
    assert tree(root.parent) == before


def test_a_file_keeps_its_secret_under_another_name(root: Path, files: GatedFiles) -> None:
    """Whoever may write both names, but read only one, does not read the other by renaming it."""

    class Writer(Listening):
        def _hear(self, questions: Any) -> Any:
            return [
                ("unknown.action" if one[:2] == (READ, Resource("path", "priv/x")) else one[0], *one[1:])
                for one in questions
            ]

    with using(Writer.to(ANY)), pytest.raises(CapabilityDenied):
        files.rename("priv/x", "pub/y")
    assert tree(root)["priv/x"] == "private"


# -- the root, and the end


def test_no_descriptor_is_left_open(root: Path) -> None:
    (root / "out").symlink_to("..")
    before = len(os.listdir("/proc/self/fd"))
    with GatedFiles(root) as files:
        for document in (ANY, {}):
            with allowing(document):
                for path in ("pub/deep/er/y", "pub/deep/er/none", "out/x", "a.txt/x", "pub", "..", "pub/deep/../.."):
                    for act in (files.read_text, files.stat, files.listdir, files.mkdir, files.exists):
                        with contextlib.suppress(CapabilityDenied, OSError):
                            act(path)
        with allowing(ANY), pytest.raises(LookupError):
            files.open("a.txt", "w", encoding="no such")
        assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(os.listdir("/proc/self/fd")) == before
    GatedFiles(root)  # let go without being closed
    assert len(os.listdir("/proc/self/fd")) == before


def test_closed_it_opens_nothing(root: Path) -> None:
    files = GatedFiles(root)
    with allowing(ANY):
        file = files.open("a.txt")
        files.close()
        files.close()
        assert file.read() == "a"
        file.close()
        for act in (files.read_text, files.exists, files.mkdir):
            with pytest.raises(ValueError, match="closed"):
                act("a.txt")
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            take(files)


def test_the_root_may_be_a_link_and_may_be_renamed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "to").symlink_to("root")
    with GatedFiles(tmp_path / "to") as files, allowing(ANY):
        (tmp_path / "to").unlink()
        (tmp_path / "to").symlink_to("outside")
        os.rename(root, tmp_path / "renamed")
        assert files.read_text("pub/x") == "public"


@pytest.mark.parametrize("wrong", ["nowhere", "root/a.txt", "", None, 7.5, "a\0b"])
def test_a_root_that_is_none(root: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    monkeypatch.chdir(root.parent)
    with pytest.raises(ConfigError) as caught:
        GatedFiles(wrong)
    assert caught.value.setting == "root"


def test_paths_that_are_no_text(root: Path, files: GatedFiles) -> None:
    with allowing(ANY) as listening:
        assert files.read_text(Path("pub") / "x") == "public"
        with pytest.raises(CapabilityDenied):
            files.read_text(b"a.txt")  # type: ignore[arg-type]
        descriptor = os.open(root / "a.txt", os.O_RDONLY)
        try:
            for wrong in (descriptor, None, 7.5):
                with pytest.raises(TypeError):
                    files.open(wrong)  # type: ignore[arg-type]
        finally:
            os.close(descriptor)
    assert listening.asked == [(READ, "pub/x"), (READ, None)]


def test_nobody_to_ask(root: Path, files: GatedFiles) -> None:
    with pytest.raises(CapabilityDenied) as caught:
        files.write_text("a.txt", "no")
    assert reason(caught.value) == Reason.POLICY_UNAVAILABLE
    assert tree(root)["a.txt"] == "a"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_without_a_policy_call(root: Path, files: GatedFiles, kind: str) -> None:
    @requires("fs.read", resource="path:pub/x")
    async def download(request: Request) -> Response:
        name = request.query_params["name"]
        return PlainTextResponse(await anyio.to_thread.run_sync(files.read_text, name))

    checker = make_checker(kind, {"fs": ["pub/x"]})
    app = gated([Route("/download", download)], checker)
    (root / "link").symlink_to("priv/x")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        assert (await client.get("/download", params={"name": "pub/x"})).text == "public"
        for name, id in {"priv/x": "priv/x", "pub/../priv/x": "priv/x", "link": "priv/x", "../outside/x": None}.items():
            with events() as seen:
                response = await client.get("/download", params={"name": name})
            assert response.status_code == 403
            assert [(one["action"], one["resource_id"]) for one in seen] == [("fs.read", id)]
            assert response.json()["decision_id"] == seen[0]["decision_id"]
    await checker.aclose()
