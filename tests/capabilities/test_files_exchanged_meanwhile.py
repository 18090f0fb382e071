"""Gated files while others rename folders and exchange links."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from capgate.capabilities import CapabilityDenied
from capgate.capabilities.files import GatedFiles

from ..support.tools import examples
from .folders import ANY, tree
from .listening import Listening, allowing

#: At least so many, and as many as it takes until something was read.
ROUNDS = examples(1_500)


@pytest.mark.sampled
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
            for rounds in itertools.count():
                if rounds >= ROUNDS and len(seen) >= 2:
                    break
                for path in ("link/x", "pub/deep/er/y"):
                    listening.asked.clear()
                    with contextlib.suppress(CapabilityDenied, OSError):
                        text = files.read_text(path)
                        seen.add((listening.asked[-1][1], text))
    finally:
        done.set()
        thread.join()
    assert seen <= {("pub/x", "public"), ("priv/x", "private"), ("pub/deep/er/y", "deep")}


@pytest.mark.sampled
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
            for n in itertools.count():
                if n >= ROUNDS and any(text.startswith("written") for text in read):
                    break
                with contextlib.suppress(CapabilityDenied, OSError):
                    read.add(files.read_text("link"))
                with contextlib.suppress(CapabilityDenied, OSError):
                    files.write_text("link", f"written {n}")
    finally:
        done.set()
        thread.join()
    assert tree(root)["priv/x"] == "private"
    assert tree(root.parent)["outside/x"] == "outside"
    assert not read & {"private", "outside"}


def test_a_name_that_becomes_a_link_after_the_answer_is_not_followed(root: Path) -> None:
    class Swapping(Listening):
        def _hear(self, questions: Any) -> Any:
            heard = super()._hear(questions)
            for name in ("a.txt", "pub/x"):
                (root / name).unlink(missing_ok=True)
                (root / name).symlink_to(f"{root.parent}/outside/x")
            return heard

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
            heard = super()._hear(questions)
            os.rename(root / "pub", root / "was")
            (root / "pub").symlink_to("../outside")
            return heard

    with GatedFiles(root, capabilities=Swapping.to(ANY)) as files:
        assert files.read_text("pub/x") == "public"  # the folder that was asked for, whatever its name is now


def test_a_fifo_that_appears_after_the_answer_is_not_waited_for(root: Path) -> None:
    class Swapping(Listening):
        def _hear(self, questions: Any) -> Any:
            heard = super()._hear(questions)
            if (root / "a.txt").is_file():
                (root / "a.txt").unlink()
                os.mkfifo(root / "a.txt")
            return heard

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
