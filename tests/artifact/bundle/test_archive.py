"""Archives that were made to be unpacked where they should not, read in two ways, or never end."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate.artifact.bundle import is_archive
from capgate.artifact.bundle.archive import DEPTH, EXTENDED_BYTES, MEMBERS, unpack
from capgate.errors import BundleError

from ...support.packing import (
    BLOCK,
    END,
    FILES,
    archive,
    extended,
    header,
    long_name,
    member,
    pack,
    record,
)

MOST = 1 << 20
GNU = b"ustar  \0"


def _ending(tail: bytes, **fields: Any) -> bytes:
    """The header of an empty file, with ``tail`` in its last 12 bytes and the sum that belongs to that."""
    block = bytearray(header("a", **fields))
    block[500:] = tail
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def reason(data: bytes, most: int = MOST) -> str:
    with pytest.raises(BundleError) as caught:
        unpack(data, most, path="bundle.tar.gz")
    assert caught.value.path == "bundle.tar.gz"
    return caught.value.reason


def test_names_lose_what_packers_put_before_them() -> None:
    assert list(unpack(pack(), MOST)) == [name.removeprefix("/") for name in FILES]
    found = unpack(archive(member("./", kind=b"5"), member("./a", b"x"), member("/b/", kind=b"5"), member("b/c")), MOST)
    assert found == {"a": b"x", "b/c": b""}
    assert is_archive(pack())
    assert not is_archive(b"\0asm\x01\0\0\0")


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_an_archive_of_another_packer(format: int) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=format) as tar:
        for name, content in FILES.items():
            about = tarfile.TarInfo(f".{name}")
            about.size, about.mtime, about.uname = len(content), 1_700_000_000.5, "builder"
            tar.addfile(about, io.BytesIO(content))
    assert unpack(packed.getvalue(), MOST) == {name[1:]: content for name, content in FILES.items()}


# A17, A18, and of G22's kind: what must not be there is refused, and nothing is interpreted.
TRICKS: dict[str, tuple[bytes, str]] = {
    "hard link": (archive(member("a"), member("b", kind=b"1", link=b"a")), "kind"),
    "symbolic link": (archive(member("a", kind=b"2", link=b"/etc/passwd")), "kind"),
    "character device": (archive(member("a", kind=b"3")), "kind"),
    "block device": (archive(member("a", kind=b"4")), "kind"),
    "FIFO": (archive(member("a", kind=b"6")), "kind"),
    "contiguous file": (archive(member("a", kind=b"7")), "kind"),
    "no type": (archive(member("a", kind=b"\0")), "kind"),
    "unknown type": (archive(member("a", kind=b"Z")), "kind"),
    "pax path twice": (archive(member("x", record(b"path", "a") + record(b"path", "b"), b"x"), member("a")), "tar"),
    "pax path that is empty": (archive(extended(path=""), member("a")), "tar"),
    "pax path with a NUL": (archive(extended(path="a\0b"), member("a")), "tar"),
    "pax path that is not UTF-8": (archive(extended(path=b"a\xff"), member("a")), "tar"),
    "pax path outside": (archive(extended(path="../policy.wasm"), member("a")), "name"),
    "pax path with a newline": (archive(extended(path="a\nb"), member("a")), "name"),
    "pax path of a file with a slash": (archive(extended(path="a/"), member("a")), "name"),
    "pax path there already": (archive(member("policy.wasm"), extended(path="policy.wasm"), member("a")), "name"),
    "pax path in another case": (archive(member("a"), extended(path="A"), member("b")), "name"),
    "pax size": (archive(extended(size="100"), member("a", b"x")), "tar"),
    "pax size of nothing": (archive(extended(size="0"), member("a", b"x")), "tar"),
    "pax size with a sign": (archive(extended(size="+1"), member("a", b"x")), "tar"),
    "pax size with a zero": (archive(extended(size="01"), member("a", b"x")), "tar"),
    "pax size that is empty": (archive(extended(size=""), member("a", b"x")), "tar"),
    "pax time": (archive(extended(mtime="yesterday"), member("a")), "tar"),
    "pax time that is empty": (archive(extended(b"g", ctime=""), member("a")), "tar"),
    "pax owner": (archive(extended(uid="-1"), member("a")), "tar"),
    "pax link": (archive(extended(linkpath="/etc/passwd"), member("a")), "kind"),
    "pax character set": (archive(extended(hdrcharset="BINARY"), member("a")), "kind"),
    "pax sparse": (archive(member("x", record(b"GNU.sparse.name", "policy.wasm"), b"x"), member("a")), "kind"),
    "pax of a vendor": (archive(member("x", record(b"SCHILY.realsize", "1"), b"x"), member("a")), "kind"),
    "pax global path": (archive(extended(b"g", path="policy.wasm"), member("a")), "kind"),
    "pax global size": (archive(extended(b"g", size="1"), member("a")), "kind"),
    "pax with a wrong length": (archive(member("x", b"19 path=policy.wasm\n", b"x"), member("a")), "tar"),
    "pax with a length of zeros": (archive(member("x", b"020 path=policy.wasm\n", b"x"), member("a")), "tar"),
    "pax with a length too far": (archive(member("x", b"99 path=policy.wasm\n", b"x"), member("a")), "tar"),
    "pax without a value": (archive(member("x", b"7 path\n", b"x"), member("a")), "tar"),
    "pax before pax": (archive(extended(path="b"), extended(path="c"), member("a")), "tar"),
    "pax before a global one": (archive(extended(path="b"), extended(b"g", comment="c"), member("a")), "tar"),
    "pax before nothing": (archive(extended(path="b")), "tar"),
    "pax that is large": (archive(extended(comment="x" * EXTENDED_BYTES), member("a")), "size"),
    "pax before a link": (archive(extended(path="b"), member("a", kind=b"2", link=b"/etc/passwd")), "kind"),
    "GNU long name of another": (archive(long_name("policy.wasm"), member("a", magic=GNU)), "tar"),
    "GNU long name of a POSIX member": (archive(long_name("policy.wasm"), member("policy.wasm")), "tar"),
    "GNU long name in a POSIX header": (archive(member("x", b"a\0", b"L"), member("a", magic=GNU)), "tar"),
    "GNU long name without an end": (archive(member("x", b"a", b"L", magic=GNU), member("a", magic=GNU)), "tar"),
    "GNU long name with more": (archive(member("x", b"a\0b\0", b"L", magic=GNU), member("a", magic=GNU)), "tar"),
    "GNU long name outside": (archive(long_name("../a"), member("../a", magic=GNU)), "name"),
    "GNU long name before pax": (archive(long_name("a"), extended(path="b"), member("a", magic=GNU)), "tar"),
    "GNU long link": (archive(member("././@LongLink", b"policy.wasm\0", b"K", magic=GNU), member("a")), "kind"),
    "GNU sparse": (archive(member("a", kind=b"S", magic=GNU)), "kind"),
    "behind the fields": (archive(_ending(bytes(8) + b"tar\0")), "tar"),
    "behind the fields of GNU": (archive(_ending(b"\1" + bytes(11), magic=GNU)), "tar"),
    "prefix of GNU": (archive(member("a", magic=GNU, prefix=b"b")), "tar"),
    "no magic": (archive(member("a", magic=bytes(8))), "tar"),
    "a folder with content": (archive(member("a", b"x", b"5")), "tar"),
    "..": (archive(member("../a")), "name"),
    "/..": (archive(member("/../a")), "name"),
    "a/..": (archive(member("a/../policy.wasm")), "name"),
    ".. in the prefix": (archive(member("a", prefix=b"..")), "name"),
    "//": (archive(member("//etc/passwd")), "name"),
    "a//b": (archive(member("a//b")), "name"),
    "a/./b": (archive(member("a/./b")), "name"),
    "././a": (archive(member("././a")), "name"),
    "a file with a slash": (archive(member("a/")), "name"),
    "empty": (archive(member("")), "name"),
    ".": (archive(member(".")), "name"),
    "backslash": (archive(member("..\\a")), "name"),
    "drive": (archive(member("a\\b")), "name"),
    "NUL": (archive(member(b"policy.wasm\0.txt")), "name"),
    "NUL in the prefix": (archive(member("a", prefix=b"b\0c")), "name"),
    "newline": (archive(member("a\nb")), "name"),
    "right to left": (archive(member("a\u202ebc")), "name"),
    "not UTF-8": (archive(member(b"a\xff")), "tar"),
    "too deep": (archive(member("/".join("a" * (DEPTH + 1)))), "name"),
    "twice": (archive(member("a"), member("a")), "name"),
    "twice, with and without a slash": (archive(member("a"), member("/a")), "name"),
    "a folder twice": (archive(member("a/", kind=b"5"), member("a/", kind=b"5")), "name"),
    "in another case": (archive(member("Data.json"), member("data.json")), "name"),
    "a folder in another case": (archive(member("a/x"), member("A/y")), "name"),
    "sharp s": (archive(member("stra\u00dfe"), member("strasse")), "name"),
    "accent in two forms": (archive(member("\u00e9"), member("e\u0301")), "name"),
    "full width": (archive(member("data"), member("\uff44ata")), "name"),
    "a file under a file": (archive(member("a", b"x"), member("a/b")), "name"),
    "a file where a folder is": (archive(member("a/b"), member("a", b"x")), "name"),
    "size with a sign": (archive(header("a", size_field=b"-0000000001\0")), "tar"),
    "size with an underscore": (archive(header("a", size_field=b"0_0\0")), "tar"),
    "size in base 256": (archive(header("a", size_field=b"\x80" + bytes(10) + b"\x01") + bytes(BLOCK)), "tar"),
    "negative in base 256": (archive(header("a", size_field=b"\xff" * 12)), "tar"),
    "no size": (archive(header("a", size_field=b"\0")), "tar"),
    "a size above the limit": (archive(header("a", MOST + 1)), "size"),
    "the largest size": (archive(header("a", 8**11 - 1)), "size"),
    "a size above what is there": (archive(header("a", 10_000)), "tar"),
    "no end": (archive(member("a"), end=b""), "tar"),
    "half an end": (archive(member("a"), end=bytes(BLOCK)), "tar"),
    "one block of zeros": (archive(member("a"), bytes(BLOCK), member("b")), "tar"),
    "a member after the end": (archive(member("a"), END, member("policy.wasm")), "tar"),
    "padding that says something": (archive(header("a", 1) + b"x" * BLOCK), "tar"),
    "two gzip members": (pack() + gzip.compress(b""), "gzip"),
    "bytes after the end": (pack() + b"\0", "gzip"),
    "empty gzip": (gzip.compress(b""), "tar"),
    "no gzip": (b"\x1f\x8b" + bytes(100), "gzip"),
    "zeros": (gzip.compress(bytes(10 * BLOCK)) + b"x", "gzip"),
}


@pytest.mark.parametrize(("data", "expected"), TRICKS.values(), ids=TRICKS)
def test_tricks_are_refused(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def test_a_checksum_that_is_wrong_is_refused() -> None:
    block = bytearray(header("a"))
    block[0] ^= 1
    assert reason(archive(bytes(block))) == "tar"


def test_the_number_of_members_is_bounded() -> None:
    assert len(unpack(archive(*(member(f"f{n}") for n in range(MEMBERS))), 8 << 20)) == MEMBERS
    assert reason(archive(*(member(f"f{n}") for n in range(MEMBERS + 1))), 8 << 20) == "count"


def test_extended_headers_are_about_one_member_and_count_for_nothing_else() -> None:  # P-15
    about = extended(
        path="b/\u00fc", size="1", mtime="1700000000.5", atime="1", ctime="1", uid="0", uname="x", comment="c"
    )
    members = (extended(b"g", comment="a commit", mtime="1"), about, member("b/?", b"x"), member("c", b"y"))
    assert unpack(archive(*members), MOST) == {"b/\u00fc": b"x", "c": b"y"}
    folder = (extended(path="./d/"), member("d/", kind=b"5"), extended(name="\u00e9", path="./d/e"), member(b"\xff"))
    assert unpack(archive(*folder), MOST) == {"d/e": b""}
    name = "n" * 60 + "/" + "m" * 60
    assert unpack(archive(long_name(name), member(name[:100], b"x", magic=GNU)), MOST) == {name: b"x"}
    most = archive(*(extended(path=f"f{n}") + member("a") for n in range(MEMBERS)))
    assert len(unpack(most, 16 << 20)) == MEMBERS
    assert reason(archive(*[extended(b"g", comment="c")] * (2 * MEMBERS + 1)), 16 << 20) == "count"


def test_long_names() -> None:
    assert list(unpack(archive(member("a" * 100, prefix=b"b" * 100)), MOST)) == [f"{'b' * 100}/{'a' * 100}"]
    assert reason(archive(member("a" * 100, prefix=b"b" * 155))) == "name"


def test_the_limit_is_exact() -> None:
    data = archive(member("a", b"x" * 1_000))
    size = len(gzip.decompress(data))
    assert unpack(data, size)["a"] == b"x" * 1_000
    assert reason(data, size - 1) == "size"


def test_zeros_at_the_end_are_how_tar_pads_and_are_bounded() -> None:  # A18
    assert unpack(archive(member("a"), END * 9), MOST) == {"a": b""}
    assert reason(archive(member("a"), bytes(2 * MOST))) == "size"


def test_truncated_at_every_length_is_refused() -> None:  # A2
    data = pack()
    for length in range(len(data)):
        with pytest.raises(BundleError):
            unpack(data[:length], MOST)


def test_a_flipped_bit_is_refused_or_changes_nothing() -> None:  # A1
    data = pack()
    expected = unpack(data, MOST)
    harmless = 0
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                found = unpack(bytes(flipped), MOST)
            except BundleError:
                continue
            assert found == expected
            harmless += 1
    assert harmless < 80  # the header of gzip has a time, a system and flags of no consequence


@given(st.binary(max_size=2_000))
def test_any_bytes_are_files_or_one_error(data: bytes) -> None:
    for candidate in (data, gzip.compress(data, 1), gzip.compress(header("a", 10) + data, 1)):
        with suppress(BundleError):
            unpack(candidate, MOST)


#: Unpacks the bundle on standard input, and says why not, and how many more MiB of memory that took.
CHILD = """
import resource, sys
from capgate.artifact.bundle.archive import unpack
from capgate.artifact.bundle import read_bundle
from capgate.errors import BundleError
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
data = sys.stdin.buffer.read()
before = peak()
try:
    read_bundle(data, int(sys.argv[1]))
    reason = "none"
except BundleError as error:
    reason = error.reason
print(reason, int(peak() - before))
"""


def in_child(data: bytes, most: int) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", CHILD, str(most)], input=data, capture_output=True, check=True)
    found, grown = done.stdout.decode().split()
    return found, int(grown)


def bomb_of_zeros() -> bytes:
    """One file of a gigabyte, in a megabyte."""
    packer = io.BytesIO()
    with gzip.GzipFile(fileobj=packer, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(header("data.json", 1 << 30))
        for _ in range(1 << 10):
            file.write(bytes(1 << 20))
        file.write(END)
    return packer.getvalue()


def bomb_after_the_end() -> bytes:
    packer = io.BytesIO()
    with gzip.GzipFile(fileobj=packer, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(member("a") + END)
        for _ in range(1 << 8):
            file.write(bytes(1 << 20))
    return packer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "expected"), [(bomb_of_zeros, "size"), (bomb_after_the_end, "size")], ids=["a file", "padding"]
)
def test_a_bomb_takes_no_memory(make: Callable[[], bytes], expected: str) -> None:  # A18
    found, grown = in_child(make(), 16 << 20)
    assert found == expected
    assert grown < 24, f"{grown} MiB"


@pytest.mark.slow
@pytest.mark.parametrize("element", ["0,", '{"a":[]},'])
def test_data_take_memory_in_proportion_to_their_limit(element: str) -> None:  # A18
    from capgate.artifact.bundle.contents import DATA_BYTES

    text = '{"a":[' + element * ((DATA_BYTES - 20) // len(element)) + "0]}"
    data = archive(member("policy.wasm", FILES["/policy.wasm"]), member("data.json", text.encode()))
    found, grown = in_child(data, 64 << 20)
    assert found == "none"
    assert grown < 320, f"{grown} MiB"
