"""The gate of files below a folder: what is asked, and that no way leads out of it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from capgate.capabilities import CapabilityDenied, capabilities_for, using
from capgate.capabilities.files import GatedFiles
from capgate.capabilities.files.locate import DEPTH_LIMIT, LINK_LIMIT, PATH_LIMIT
from capgate.errors import ConfigError
from capgate.model import Allow, PolicyInput, PolicyResult, Reason, Resource
from capgate.routes.declare import requires

from ..support.gates import KINDS, events, gated, make_checker
from .listening import ACTOR, Listening, allowing, reason

READ, WRITE = "fs.read", "fs.write"
ANY = {"fs": "any"}
PARTS = ["..", ".", "", "pub", "deep", "x", "out", "in", "far", "root", "outside", "up"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a few files, beside one that is none of its business."""
    root = tmp_path / "root"
    for name, text in {"a.txt": "a", "pub/x": "public", "priv/x": "private", "pub/deep/er/y": "deep"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("outside")
    (tmp_path / "root-2").mkdir()
    (tmp_path / "root-2" / "x").write_text("outside")
    return root


@pytest.fixture
def files(root: Path) -> Iterator[GatedFiles]:
    with GatedFiles(root) as files:
        yield files


def tree(folder: Path) -> dict[str, str]:
    """Everything below ``folder``, as somebody else sees it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = (
            f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text("latin-1") if path.is_file() else "/"
        )
    return found


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


# -- links, and other ways


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
    with allowing({"fs": [id]}):
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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.sampled_from(["..", ".", "", "pub", "deep", "x", "out", "in", "far", "root", "outside", "up"]), max_size=8
    )
)
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


# -- while others rename and exchange


def test_what_was_asked_for_is_what_is_opened_while_links_are_exchanged(root: Path) -> None:
    """A link leads to one folder, to another, and out; a name is a folder, and a link out of the root."""
    done = threading.Event()

    def exchange() -> None:
        for target in itertools.cycle(["pub", "priv", "../outside", f"{root}-2", "pub"]):
            if done.is_set():
                return
            (root / "spare").symlink_to(target)
            os.replace(root / "spare", root / "link")
            with contextlib.suppress(OSError):
                os.rename(root / "pub" / "deep", root / "pub" / "gone")
                (root / "pub" / "deep").symlink_to("../../outside")
                (root / "pub" / "deep").unlink()
                os.rename(root / "pub" / "gone", root / "pub" / "deep")

    (root.parent / "outside" / "er").mkdir()
    (root.parent / "outside" / "er" / "y").write_text("outside")
    (root / "link").symlink_to("pub")
    thread = threading.Thread(target=exchange)
    thread.start()
    seen: set[tuple[str | None, str]] = set()
    try:
        listening = Listening.to(ANY)
        with GatedFiles(root, capabilities=listening) as files:
            for _ in range(1_500):
                for path in ("link/x", "pub/deep/er/y"):
                    listening.asked.clear()
                    with contextlib.suppress(CapabilityDenied, OSError):
                        text = files.read_text(path)
                        seen.add((listening.asked[-1][1], text))
    finally:
        done.set()
        thread.join()
    assert seen <= {("pub/x", "public"), ("priv/x", "private"), ("pub/deep/er/y", "deep")}
    assert len(seen) >= 2


def test_what_is_denied_stays_unread_and_unwritten_while_links_are_exchanged(root: Path) -> None:
    done = threading.Event()

    def exchange() -> None:
        for target in itertools.cycle(["pub/x", "priv/x", "../outside/x"]):
            if done.is_set():
                return
            (root / "spare").symlink_to(target)
            os.replace(root / "spare", root / "link")

    (root / "link").symlink_to("pub/x")
    thread = threading.Thread(target=exchange)
    thread.start()
    read: set[str] = set()
    try:
        with GatedFiles(root, capabilities=Listening.to({"fs": ["pub/x"]})) as files:
            for n in range(1_500):
                with contextlib.suppress(CapabilityDenied, OSError):
                    read.add(files.read_text("link"))
                with contextlib.suppress(CapabilityDenied, OSError):
                    files.write_text("link", f"written {n}")
    finally:
        done.set()
        thread.join()
    assert tree(root)["priv/x"] == "private"
    assert tree(root.parent)["outside/x"] == "outside"
    assert any(text.startswith("written") for text in read)
    assert not read & {"private", "outside"}


def test_a_name_that_becomes_a_link_after_the_answer_is_not_followed(root: Path) -> None:
    class Swapping(Listening):
        def _hear(self, questions: Any) -> Any:
            found = super()._hear(questions)
            for name in ("a.txt", "pub/x"):
                (root / name).unlink(missing_ok=True)
                (root / name).symlink_to(f"{root.parent}/outside/x")
            return found

    with GatedFiles(root, capabilities=Swapping.to(ANY)) as files:
        for mode in ("r", "w", "a", "r+"):
            for name in ("a.txt", "pub/x"):
                (root / name).unlink()
                (root / name).write_text("mine")
                with pytest.raises(OSError, match="symbolic links"):
                    files.open(name, mode)
                (root / name).unlink()
                (root / name).write_text("mine")
                with pytest.raises(OSError, match="symbolic links"):
                    files.stat(name)
    assert tree(root.parent)["outside/x"] == "outside"


def test_a_folder_that_is_exchanged_after_the_answer_is_not_entered(root: Path) -> None:
    class Swapping(Listening):
        def _hear(self, questions: Any) -> Any:
            found = super()._hear(questions)
            os.rename(root / "pub", root / "was")
            (root / "pub").symlink_to("../outside")
            return found

    with GatedFiles(root, capabilities=Swapping.to(ANY)) as files:
        assert files.read_text("pub/x") == "public"  # the folder that was asked for, whatever its name is now


def test_a_fifo_that_appears_after_the_answer_is_not_waited_for(root: Path) -> None:
    class Swapping(Listening):
        def _hear(self, questions: Any) -> Any:
            found = super()._hear(questions)
            if (root / "a.txt").is_file():
                (root / "a.txt").unlink()
                os.mkfifo(root / "a.txt")
            return found

    for mode in ("r", "w"):
        (root / "a.txt").unlink()
        (root / "a.txt").write_text("a")
        with GatedFiles(root, capabilities=Swapping.to(ANY)) as files, pytest.raises((CapabilityDenied, OSError)):
            files.open("a.txt", mode)


@pytest.mark.parametrize("mode", ["r", "w", "a", "r+", "w+"])
@pytest.mark.parametrize("swapped", ["a.txt", "pub"])
def test_what_is_exchanged_in_the_last_moment(
    root: Path, files: GatedFiles, monkeypatch: pytest.MonkeyPatch, mode: str, swapped: str
) -> None:
    """Between the look at a name and its opening: a file becomes another name of one outside, a folder a link."""
    opened = os.open

    def exchange(name: Any, *args: Any, **kwargs: Any) -> int:
        if name == swapped and not (root / "was").exists():
            os.rename(root / name, root / "was")
            if name == "pub":
                (root / name).symlink_to("../outside")
            else:
                os.link(root.parent / "outside" / "x", root / name)
        return opened(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", exchange)
    with allowing(ANY), pytest.raises((CapabilityDenied, OSError)):
        files.open("a.txt" if swapped == "a.txt" else "pub/x", mode)
    assert (root / "was").exists()
    assert tree(root.parent)["outside/x"] == "outside"


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
