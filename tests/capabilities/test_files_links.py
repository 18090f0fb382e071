"""Links, and other ways out of a folder: none leads out."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgate.capabilities import CapabilityDenied, capabilities_for, using
from capgate.capabilities.files import GatedFiles
from capgate.capabilities.files.locate import DEPTH_LIMIT, LINK_LIMIT, PATH_LIMIT
from capgate.model import Allow, PolicyInput, PolicyResult, Reason

from ..support.tools import examples
from .folders import ANY, READ, tree
from .listening import ACTOR, allowing, reason

PARTS = ["..", ".", "", "pub", "deep", "x", "out", "in", "far", "root", "outside", "up"]


@pytest.mark.parametrize(
    ("path", "id"),
    [
        *[("pub/x", "pub/x"), ("./pub//x", "pub/x"), ("pub/./x", "pub/x"), ("pub/../a.txt", "a.txt")],
        *[("pub/deep/../../a.txt", "a.txt"), ("link", "pub/x"), ("folder/x", "pub/x"), ("folder/../a.txt", "a.txt")],
        *[("deeper/../x", "pub/deep/x"), ("chain", "pub/x"), ("absolute/x", "pub/x"), ("rooted", "a.txt")],
        *[("up/a.txt", "a.txt"), ("pub/back/pub/x", "pub/x"), ("dangling", "pub/nothing"), ("A.txt", "A.txt")],
        *[("pub/x\n", "pub/x\n"), ("..a", "..a"), ("pub/...", "pub/..."), ("a\\b", "a\\b"), ("%2e%2e/x", "%2e%2e/x")],
        *[("pub/\uff58", "pub/\uff58"), ("~", "~"), ("C:x", "C:x"), ("nowhere/x", "nowhere/x"), ("a.txt/x", "a.txt/x")],
    ],
)  # fmt: skip
def test_the_id_is_where_a_path_leads(root: Path, files: GatedFiles, path: str, id: str) -> None:
    links = {
        "link": "pub/x", "folder": "pub", "deeper": "pub/deep/er", "chain": "link", "absolute": f"{root}/pub",
        "rooted": f"{root}/pub/../a.txt", "up": "pub/..", "pub/back": "..", "dangling": "pub/nothing",
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    with allowing({}) as listening, pytest.raises(CapabilityDenied) as caught:
        files.read_text(path)
    assert listening.asked == [(READ, id)]
    assert reason(caught.value) == Reason.NOT_IN_ALLOWLIST
    with allowing({"fs": [id if id == id.strip() else "pub/*"]}):  # a document cannot name what ends with a blank
        if (root / path).exists():
            assert files.read_text(path) == (root / id).read_text()
        else:
            with pytest.raises((FileNotFoundError, NotADirectoryError)):
                files.read_text(path)


@pytest.mark.parametrize(
    "path",
    [
        *["", "/", "/a.txt", "//a.txt", "..", "../outside/x", "pub/../../outside/x", "pub/deep/../../../outside/x"],
        *["nowhere/../../outside/x", "nowhere/../a.txt", "a.txt/../pub/x", "../root/a.txt", "a.txt\0", "\0", "pub\0/x"],
        *["out", "out/x", "out/../outside/x", "chain", "sibling/x", "far/x", "over/x", "loop", "self/x"],
        *[
            "a/" * (DEPTH_LIMIT + 1) + "x",
            "x" * (PATH_LIMIT + 1),
            "./" * PATH_LIMIT + "a.txt",
            "\udcff",
            "odd",
            "pub/\ud800/x",
        ],
        *["dangling", "proc/self/root/etc/passwd", "proc/self/cwd/x", "proc/self/fd/0"],
    ],
)
def test_no_path_leads_out(root: Path, files: GatedFiles, path: str) -> None:
    links = {"chain": "chain2", "chain2": "out/x", "loop": "loop", "self": "self/self", "dangling": "/nowhere"}
    links |= {"out": "../outside", "sibling": f"{root}-2", "far": f"{root.parent}/outside", "proc": "/proc"}
    links["over"] = f"{root}/../outside"
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.symlink(b"\xff", os.fsencode(root / "odd"))
    deep = root
    for _ in range(DEPTH_LIMIT + 1):
        deep = deep / "a"
        deep.mkdir()
    before = tree(root.parent / "outside")
    acts: list[Callable[[], Any]] = [
        *[lambda mode=mode: files.open(path, mode) for mode in ("r", "r+", "w", "a")],
        *[lambda: files.stat(path), lambda: files.exists(path), lambda: files.listdir(path)],
    ]
    if path not in ("out", "chain", "loop", "dangling", "odd"):  # these may be removed, and replaced: they are names
        acts += [lambda: files.unlink(path), lambda: files.rename(path, "b"), lambda: files.rename("a.txt", path)]
        acts += [lambda: files.mkdir(path), lambda: files.open(path, "x")]
    with allowing(ANY) as listening:
        for act in acts:
            with pytest.raises(CapabilityDenied) as caught:
                act()
            assert reason(caught.value) == Reason.MISSING_RESOURCE
    assert {id for _, id in listening.asked} == {None}
    assert tree(root.parent / "outside") == before
    assert (root / "a.txt").read_text() == "a"


def test_names_of_links_are_theirs(root: Path, files: GatedFiles) -> None:
    (root / "out").symlink_to("../outside/x")
    (root / "in").symlink_to("a.txt")
    with allowing({"fs": ["out", "in", "moved"]}):
        files.rename("out", "moved")
        with pytest.raises(CapabilityDenied):
            files.read_text("moved")
        files.unlink("moved")
        files.unlink("in")
        (root / "in").symlink_to("a.txt")
        with pytest.raises(FileExistsError):
            files.open("in", "x")
    assert tree(root.parent)["outside/x"] == "outside"
    assert tree(root)["a.txt"] == "a"


def test_as_many_links_as_linux_follows(root: Path, files: GatedFiles) -> None:
    (root / "0").symlink_to("a.txt")
    for n in range(1, LINK_LIMIT + 1):
        (root / str(n)).symlink_to(str(n - 1))
    with allowing(ANY):
        assert files.read_text(str(LINK_LIMIT - 1)) == "a"
        with pytest.raises(CapabilityDenied):
            files.read_text(str(LINK_LIMIT))


def test_only_regular_files_are_opened(root: Path, files: GatedFiles, tmp_path: Path) -> None:
    os.mkfifo(root / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(root, os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{here}/socket")  # the path of a socket is short
    os.close(here)
    with contextlib.closing(listener), allowing(ANY):
        for name, mode in itertools.product(("fifo", "socket"), ("r", "w", "a", "r+", "rb")):
            with pytest.raises(CapabilityDenied) as caught:
                files.open(name, mode)
            assert reason(caught.value) == Reason.MISSING_RESOURCE
        for mode in ("r", "w", "r+"):
            for path in ("pub", ".", "pub/deep/.."):
                with pytest.raises(IsADirectoryError):
                    files.open(path, mode)
        with pytest.raises(NotADirectoryError):
            files.listdir("a.txt")
        with pytest.raises(CapabilityDenied):  # the ids of what is below would change
            files.rename("pub", "public")
    with GatedFiles("/dev") as devices, allowing(ANY):
        for mode in ("r", "w", "r+"):
            with pytest.raises(CapabilityDenied):
                devices.open("null", mode)


def test_a_file_with_several_names_may_be_another_one(root: Path, files: GatedFiles) -> None:
    os.link(root.parent / "outside" / "x", root / "hard")
    with allowing(ANY):
        for mode in ("r", "w", "a", "r+", "w+"):
            with pytest.raises(CapabilityDenied) as caught:
                files.open("hard", mode)
            assert reason(caught.value) == Reason.MISSING_RESOURCE
        with GatedFiles(root, hard_links=True) as lenient:
            assert lenient.read_text("hard") == "outside"
        files.unlink("hard")
    assert tree(root.parent)["outside/x"] == "outside"
    with allowing(ANY):
        files.write_text("a.txt", "b")


def test_a_checker_that_allows_what_has_no_id_opens_nothing(files: GatedFiles) -> None:
    class Lax:
        async def check(self, input: PolicyInput) -> PolicyResult:
            return Allow()

    async def main() -> None:
        with using(capabilities_for(Lax(), ACTOR, deadline=20)):
            assert await anyio.to_thread.run_sync(files.read_text, "a.txt") == "a"
            for path in ("../outside/x", "/etc/passwd", ""):
                with pytest.raises(PermissionError):
                    await anyio.to_thread.run_sync(files.read_text, path)

    anyio.run(main)


@pytest.mark.sampled
@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(PARTS), max_size=8))
def test_whatever_the_path_it_stays_below(root: Path, files: GatedFiles, parts: list[str]) -> None:
    if not (root / "out").is_symlink():
        links = {
            "out": "../outside",
            "in": "pub/deep",
            "far": str(root.parent),
            "up": "..",
            "pub/up": "..",
            "root": str(root),
        }
        for name, target in links.items():
            (root / name).symlink_to(target)
    path = "/".join(parts)
    with allowing(ANY) as listening:
        try:
            assert files.read_text(path) != "outside"
        except (CapabilityDenied, OSError):
            pass
        else:
            (asked,) = listening.asked
            assert os.path.realpath(root / path) == f"{root}/{asked[1]}"
