"""``capgate new app``: what it writes is tried as it stands, in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from capgate.cli.new.command import write_application
from capgate.errors import ConfigError

from ..support.command import Command, capgate, environment

FILES = ["README.md", "app.py", "fixtures/orders.json", "policy.toml", "pyproject.toml", "test_app.py"]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_it_writes_all_files_and_says_what_to_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = command.json("new", "app", "shops/orders")
    assert told["path"] == "shops/orders"
    assert told["files"] == files(tmp_path / "shops/orders") == FILES
    assert told["next"] == ["cd shops/orders", "python -m pytest", "uvicorn app:app"]
    for path in (tmp_path / "shops/orders").rglob("*.*"):
        assert not path.is_file() or "$" not in path.read_text()


def test_a_folder_that_is_there_and_empty_is_taken(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orders").mkdir()
    monkeypatch.chdir(tmp_path / "orders")
    assert command("new", "app", ".") == 0
    assert files(tmp_path / "orders") == FILES


@pytest.mark.parametrize("there", [".hidden", "app.py"])
def test_a_folder_that_is_not_empty_is_left_as_it_is(there: str, command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    folder.mkdir()
    (folder / there).write_text("mine")
    assert command("new", "app", str(folder)) == 2
    assert command.output == ""
    assert files(folder) == [there]
    assert (folder / there).read_text() == "mine"


def test_what_is_no_folder_is_refused(command: Command, tmp_path: Path) -> None:
    (tmp_path / "orders").write_text("a file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("orders", "orders/below", "dangling", "loop", "loop/below"):
        assert command("new", "app", str(tmp_path / name)) == 2
        assert command.output == ""
    assert sorted(os.listdir(tmp_path)) == ["dangling", "loop", "orders"]


@pytest.mark.parametrize(
    "name", ["", "7", "a b", 'a"b', "a$b", "\N{LATIN SMALL LETTER E WITH ACUTE}", "x" * 64, "a\nb"]
)
def test_a_name_that_fits_no_policy_is_refused(name: str, command: Command, tmp_path: Path) -> None:
    assert command("new", "app", f"{tmp_path}/{name}" if name else "/") == 2
    assert os.listdir(tmp_path) == []


@contextlib.contextmanager
def serving(folder: Path, step: str) -> Iterator[HTTPConnection]:
    """Run the last of the commands that were said, on a port that is free."""
    server = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(step), "--port", "0"],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        log = []
        for line in server.stderr:
            log.append(line)
            if place := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            pytest.fail("".join(log))
        with contextlib.closing(HTTPConnection("127.0.0.1", int(place[1]), timeout=60)) as connection:
            yield connection
    finally:
        server.terminate()
        server.communicate(timeout=60)


def status(connection: HTTPConnection, method: str, path: str) -> int:
    connection.request(method, path)
    response = connection.getresponse()
    response.read()
    return response.status


@pytest.mark.slow
def test_a_new_application_passes_its_tests_and_answers(tmp_path: Path) -> None:
    done = capgate("new", "app", str(tmp_path / "orders"), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    entering, testing, starting = json.loads(done.stdout)["next"]
    folder = Path(shlex.split(entering)[1])
    tests = subprocess.run(
        [sys.executable, *shlex.split(testing)[1:], "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout
    judged = capgate("test", str(folder / "policy.toml"), str(folder / "fixtures"), "--min-coverage", "100")
    assert judged.returncode == 0, judged.stdout
    with serving(folder, starting) as connection:
        assert status(connection, "GET", "/healthz") == 200
        assert status(connection, "GET", "/docs") == 200
        assert status(connection, "GET", "/orders") == 200
        assert status(connection, "DELETE", "/orders") == 403
        assert status(connection, "GET", "/elsewhere") == 403


def test_no_file_is_replaced_that_came_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes into the folder after it was seen to be empty."""

    listed = Path.iterdir

    def empty_at_first(folder: Path) -> Iterator[Path]:
        if folder != tmp_path / "orders":
            return iter(list(listed(folder)))
        (folder / "app.py").write_text("mine")
        return iter(())

    monkeypatch.setattr(Path, "iterdir", empty_at_first)
    with pytest.raises(ConfigError) as caught:
        write_application(tmp_path / "orders", "orders")
    assert caught.value.seen == str(tmp_path / "orders")
    assert (tmp_path / "orders/app.py").read_text() == "mine"
