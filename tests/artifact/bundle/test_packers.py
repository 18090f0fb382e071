"""The same files by other packers are the same bundle: what ``opa build``, ``tar`` and Python write (P-15)."""

from __future__ import annotations

import gzip
import io
import json
import random
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.artifact.bundle.archive import NAME_LENGTH, unpack
from capgate.artifact.bundle.contents import read_bundle
from capgate.errors import BundleError
from capgate.store import load_wasm_artifact

from ...support.packing import DATA, FILES, MODULE, archive, extended, manifest, member
from ...support.tools import examples, require_tool

MOST: Final = 16 << 20
#: Packs files, whose names have no slash in front.
Packer = Callable[[Mapping[str, bytes]], bytes]


def by_python(format: int, before: str = "", mtime: float = 1_700_000_000) -> Packer:
    def packed(files: Mapping[str, bytes]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz", format=format) as tar:
            for name, content in files.items():
                about = tarfile.TarInfo(before + name)
                about.size, about.mtime, about.uname = len(content), mtime, "b\u00fcilder"
                tar.addfile(about, io.BytesIO(content))
        return out.getvalue()

    return packed


def as_go_does(files: Mapping[str, bytes]) -> bytes:
    """As Go's ``archive/tar`` writes what ``opa build`` gives it: with a slash, extended where ustar is too small."""
    members = []
    for name, content in files.items():
        path = f"/{name}"
        if path.isascii() and len(path) <= 100:
            members.append(member(path, content))
        else:
            short = path.encode("ascii", "ignore")[:100]
            members += [
                extended(name="PaxHeaders.0/" + path.rpartition("/")[2][:30], path=path),
                member(short, content),
            ]
    return archive(*members)


def by_tar(format: str) -> Packer:
    """As the program ``tar`` does, with the folders: of a folder that has the files."""
    tool = require_tool("tar")

    def packed(files: Mapping[str, bytes]) -> bytes:
        with TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            made = subprocess.run(
                [tool, f"--format={format}", "-C", folder, "-cf", "-", "."], capture_output=True, check=True
            )
        return gzip.compress(made.stdout)

    return packed


PACKERS: Final[dict[str, Callable[[], Packer]]] = {
    "Go": lambda: as_go_does,
    "Python, ustar": lambda: by_python(tarfile.USTAR_FORMAT),
    "Python, GNU": lambda: by_python(tarfile.GNU_FORMAT, "./"),
    "Python, pax": lambda: by_python(tarfile.PAX_FORMAT, "/"),
    "Python, pax, with fractions of seconds": lambda: by_python(tarfile.PAX_FORMAT, mtime=1_700_000_000.25),
    "tar, GNU": lambda: by_tar("gnu"),
    "tar, pax": lambda: by_tar("posix"),
    "tar, ustar": lambda: by_tar("ustar"),
}
EXTENDED: Final = [name for name in PACKERS if "ustar" not in name]
FOLDER: Final = st.text(st.sampled_from("abcdefgh\u00e9\u00fc\u4e2d\U0001f600 -."), min_size=1, max_size=30).filter(
    lambda text: text.strip(".") == text and text.strip() == text
)
FOLDERS: Final = st.lists(st.lists(FOLDER, min_size=1, max_size=8), max_size=5, unique_by=lambda parts: "/".join(parts))


def bundle_of(folders: list[list[str]]) -> dict[str, bytes]:
    """A module, and a file of data in each folder: every other one in YAML."""
    files = {"policy.wasm": MODULE, ".manifest": manifest(roots=None, wasm=None)}
    for number, parts in enumerate(folders):
        name = "/".join(parts) + ("/data.yaml" if number % 2 else "/data.json")
        if len(name.encode()) < NAME_LENGTH - 2:
            files[name] = json.dumps({f"k{number}": number}).encode()
    return files


@pytest.mark.sampled
@settings(max_examples=examples(100), deadline=None)
@given(folders=FOLDERS)
def test_the_same_files_are_the_same_bundle(folders: list[list[str]]) -> None:
    files = bundle_of(folders)
    first = None
    for name in EXTENDED:
        if "tar" in name.partition(",")[0]:
            continue  # that is a process for each; see below
        found = read_bundle(PACKERS[name]()(files), MOST)
        assert set(found.bundle.files) == set(files)
        first = first or found
        assert (found.module, found.data) == (first.module, first.data), name


LONG: Final = "/".join(["segment-of-a-name"] * 11)
NAMED: Final = {
    "policy.wasm": MODULE,
    ".manifest": manifest(roots=None, wasm=None),
    "data.json": json.dumps(DATA).encode(),
    "orders/eu/data.json": b'{"open": true}',
    "orders/data.yaml": b"closed: [sat, sun]\n",
    "stra\u00dfe/\u4e2d\u6587/data.json": b'{"a": 1}',
    f"{LONG}/data.json": b'{"b": 2}',
    f"{LONG}/\u00e9\u00e8\u00ea/data.yaml": b"c: 3\n",
}
VALUE: Final = {"closed": ["sat", "sun"], "eu": {"open": True}, **DATA["orders"]}


@pytest.mark.parametrize("name", EXTENDED)
def test_each_packer(name: str, tmp_path: Path) -> None:
    data = PACKERS[name]()(NAMED)
    assert unpack(data, MOST) == NAMED
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(data)
    artifact = load_wasm_artifact(path)
    assert artifact.module == MODULE
    found = json.loads(artifact.rego_data)
    assert found["orders"] == VALUE
    assert found["stra\u00dfe"]["\u4e2d\u6587"] == {"a": 1}
    for part in LONG.split("/"):
        found = found[part]
    assert found == {"b": 2, "\u00e9\u00e8\u00ea": {"c": 3}}


@pytest.mark.parametrize("name", PACKERS)
def test_short_names_by_each_packer(name: str) -> None:
    files = {key.removeprefix("/"): content for key, content in FILES.items()}
    found = read_bundle(PACKERS[name]()(files), MOST)
    assert (found.module, json.loads(found.data)) == (MODULE, DATA)


def test_an_archive_that_git_makes(tmp_path: Path) -> None:
    """It says of all members which commit they are."""
    git = [require_tool("git"), "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    for name, content in NAMED.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    made = subprocess.run([*git, "archive", "--format=tar", "HEAD"], cwd=tmp_path, capture_output=True, check=True)
    assert unpack(gzip.compress(made.stdout), MOST) == NAMED


#: Bytes that change the meaning of a header more often than any would.
TELLING: Final = b"05xgLK \0/.127=\n"


def with_checksums(data: bytes) -> bytes:
    """The archive in which the sum of each block that may be a header is right."""
    out = bytearray(data)
    for at in range(0, len(out) - 512, 512):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


def by_another_reader(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        files = {}
        for item in tar:
            assert item.isfile() or item.isdir()
            if item.isfile():
                content = tar.extractfile(item)
                assert content is not None
                files[item.name.removeprefix("/").removeprefix("./")] = content.read()
        return files


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["Go", "Python, GNU", "Python, pax", "Python, pax, with fractions of seconds"])
def test_what_is_read_is_read_alike_by_another_reader(name: str) -> None:
    """Bytes are changed, and sums set right: what is admitted is to Python's own reader what it is here.  # A17"""
    whole = gzip.decompress(PACKERS[name]()(NAMED))
    source = random.Random(name)
    headers = [at for at in range(0, len(whole) - 512, 512) if whole[at + 257 : at + 262] == b"ustar"]
    read = 0
    for _ in range(examples(1_200, quick=400)):
        changed = bytearray(whole)
        for _ in range(source.randrange(1, 4)):
            # Also what follows a header, which is the text of an extended one.
            at = source.choice(headers) + source.choice(
                (source.randrange(512), 512 + source.randrange(80), 156, 124, 135)
            )
            changed[at] = source.choice((source.randrange(256), *TELLING))
        data = with_checksums(bytes(changed))
        try:
            files = unpack(gzip.compress(data, 1), MOST)
        except BundleError:
            continue
        read += 1
        assert by_another_reader(data) == files
    assert read > examples(1_200, quick=400) / 20
