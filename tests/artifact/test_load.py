"""The loader: one read, the digest of those bytes, and a clear refusal of everything that is not a module."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate.artifact.build import POLICY_SECTION, build_policy
from capgate.artifact.load import document_format, load_policy, read_bytes, read_policy
from capgate.errors import (
    ArtifactError,
    ArtifactNotFound,
    CapgateError,
    ConfigError,
    DecodeError,
    DigestMismatch,
    RestrictedModule,
)
from capgate.limits import Limits, check_digest
from capgate.policy import RuntimePolicy
from capgate.store import WasmArtifact, load_wasm_artifact
from capgate.wasm import decode, encode, with_custom

HEADER = b"\0asm\x01\0\0\0"
COMPONENT_HEADER = b"\0asm\x0d\0\x01\0"
# One function of no parameters, which returns the i32 42 and is exported as "f".
MODULE = HEADER + bytes.fromhex("0105016000017f03020100070501016600000a06010400412a0b")


def leb(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def section(number: int, payload: bytes) -> bytes:
    return bytes([number]) + leb(len(payload)) + payload


def custom(payload: bytes, name: str = POLICY_SECTION) -> bytes:
    return section(0, leb(len(name)) + name.encode() + payload)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "orders.v2.wasm"
    path.write_bytes(MODULE)
    return path


def test_a_module_is_read_with_its_digest(path: Path) -> None:
    artifact = load_wasm_artifact(path, sha256(MODULE))
    assert (artifact.data, artifact.module, artifact.sha256) == (MODULE, MODULE, sha256(MODULE))
    assert (artifact.path, artifact.name, artifact.version) == (str(path), "orders.v2", "")
    assert not artifact.is_component
    assert artifact.info("wasmtime").sha256 == sha256(MODULE)


def test_bytes_need_no_file() -> None:
    artifact = WasmArtifact.from_bytes(MODULE)
    assert (artifact.path, artifact.name, artifact.version, artifact.sha256) == (None, "", "", sha256(MODULE))


def test_what_is_kept_cannot_be_changed_from_outside() -> None:
    writable = bytearray(MODULE)
    artifact = WasmArtifact.from_bytes(writable)
    writable[:4] = b"gone"
    assert artifact.data == MODULE
    with pytest.raises(AttributeError):
        artifact.data = b""  # type: ignore[misc]  # what a frozen class must refuse at run time too


def test_only_bytes_are_a_module() -> None:
    with pytest.raises(TypeError):
        WasmArtifact.from_bytes("(module)")  # type: ignore[arg-type]  # a caller without a type checker
    with pytest.raises(TypeError):
        load_wasm_artifact(3)  # type: ignore[arg-type]  # a file descriptor is not a path


def test_the_digest_of_a_component_is_over_the_file() -> None:
    data = COMPONENT_HEADER + section(1, MODULE)
    artifact = WasmArtifact.from_bytes(data, sha256(data))
    assert artifact.is_component
    assert artifact.module == MODULE
    assert artifact.sha256 == sha256(data)


@pytest.mark.parametrize("modules", [0, 2])
def test_a_component_holds_exactly_one_module(modules: int) -> None:
    with pytest.raises(RestrictedModule):
        WasmArtifact.from_bytes(COMPONENT_HEADER + section(1, MODULE) * modules)


# A22
@pytest.mark.parametrize(
    "pin",
    [
        "",
        sha256(MODULE).upper(),
        sha256(MODULE)[:-1],
        sha256(MODULE) + "0",
        sha256(MODULE) + "\n",
        " " + sha256(MODULE)[1:],
        "sha256:" + sha256(MODULE),
        hashlib.sha1(MODULE).hexdigest(),
        "g" * 64,
        "\u0660" * 64,  # a digit, but not an ASCII one
        sha256(MODULE).encode(),
        int(sha256(MODULE), 16),
        True,
    ],
)
def test_a_pin_is_64_lower_case_hex_digits(pin: object, path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_wasm_artifact(path, pin)  # type: ignore[arg-type]  # a caller without a type checker
    assert (caught.value.setting, caught.value.seen) == ("sha256", pin)
    with pytest.raises(ConfigError):
        WasmArtifact.from_bytes(MODULE, pin)  # type: ignore[arg-type]  # the same


def test_a_bad_pin_is_told_before_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_wasm_artifact(tmp_path / "absent.wasm", "abc")


def test_a_pin_names_its_setting() -> None:
    with pytest.raises(ConfigError) as caught:
        check_digest("CAPGATE_ARTIFACT_SHA256", "x")
    assert caught.value.setting == "CAPGATE_ARTIFACT_SHA256"


# A1
def test_every_flipped_bit_misses_the_pin(tmp_path: Path) -> None:
    path = tmp_path / "flipped.wasm"
    for position in range(len(MODULE)):
        for bit in range(8):
            flipped = bytearray(MODULE)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(DigestMismatch) as caught:
                load_wasm_artifact(path, sha256(MODULE))
            assert (caught.value.expected, caught.value.actual) == (sha256(MODULE), sha256(bytes(flipped)))
            assert caught.value.path == str(path)


# A15: without a pin, a half-written file is found by decoding it.
def test_a_truncated_module_is_refused_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "short.wasm"
    boundaries = {8, 15, 19, 26}  # where a section ends, what is left is a module; one that lacks bodies is not
    accepted = set()
    for length in range(len(MODULE)):
        path.write_bytes(MODULE[:length])
        try:
            load_wasm_artifact(path)
        except ArtifactError as error:
            assert error.path == str(path)  # noqa: PT017 - both outcomes are counted
        else:
            accepted.add(length)
        with pytest.raises(DigestMismatch):
            load_wasm_artifact(path, sha256(MODULE))
    assert accepted <= boundaries


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"(module)",
        b"  ;; a comment\n(module)",
        b"(component)",
        b"MZ" + bytes(100),
        b"\0asm",
        b"\0asm\x02\0\0\0",
        b"\0asm\x01\0\x01\0",
        b"\x7fELF" + bytes(60),
        bytes(4096),
        MODULE + b"\0",
        b"\xef\xbb\xbf" + MODULE,
    ],
    ids=repr,
)
def test_what_is_no_module_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "policy.wasm"
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        load_wasm_artifact(path)
    assert isinstance(caught.value.__cause__, DecodeError)
    with pytest.raises(DecodeError):
        WasmArtifact.from_bytes(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_artifact_or_one_of_our_errors(data: bytes) -> None:
    for candidate in (data, HEADER + data, COMPONENT_HEADER + data, MODULE + custom(data)):
        try:
            artifact = WasmArtifact.from_bytes(candidate)
        except CapgateError:
            continue
        assert artifact.data == candidate


class TestPaths:
    # A14
    def refused(self, path: str | Path) -> ArtifactNotFound:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ArtifactNotFound) as caught:
            load_wasm_artifact(path, sha256(MODULE))
        assert len(os.listdir("/proc/self/fd")) == before
        assert caught.value.path == str(path)
        return caught.value

    def test_missing(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "absent.wasm")

    def test_below_a_file(self, path: Path) -> None:
        self.refused(path / "below")

    @pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "\udcff"])
    def test_impossible_name(self, name: str) -> None:
        self.refused(name)

    def test_folder(self, tmp_path: Path) -> None:
        assert "folder" in str(self.refused(tmp_path))

    def test_fifo(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "policy.wasm")
        assert "FIFO" in str(self.refused(tmp_path / "policy.wasm"))

    def test_socket(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "policy.wasm"))
            assert "socket" in str(self.refused(tmp_path / "policy.wasm"))

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
    def test_device(self, device: str) -> None:
        assert "device" in str(self.refused(device))

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        self.refused(tmp_path / "a")

    def test_link_to_a_device(self, tmp_path: Path) -> None:
        (tmp_path / "policy.wasm").symlink_to("/dev/zero")
        self.refused(tmp_path / "policy.wasm")

    def test_link_to_a_file_is_followed(self, path: Path) -> None:
        link = path.parent / "link.wasm"
        link.symlink_to(path)
        artifact = load_wasm_artifact(link, sha256(MODULE))
        assert (artifact.data, artifact.name) == (MODULE, "link")

    def test_a_hard_link_is_the_file(self, path: Path) -> None:
        os.link(path, path.parent / "hard.wasm")
        assert load_wasm_artifact(path.parent / "hard.wasm", sha256(MODULE)).data == MODULE

    def test_a_bad_file_name_becomes_a_good_label(self, tmp_path: Path) -> None:
        path = os.path.join(tmp_path, os.fsdecode(b"\xff.wasm"))
        Path(path).write_bytes(MODULE)
        artifact = load_wasm_artifact(path)
        assert (artifact.path, artifact.name) == (path, "\N{REPLACEMENT CHARACTER}")


# A14: the file is read once; what happens to it afterwards changes nothing.
def test_a_file_replaced_after_loading_is_not_read_again(path: Path) -> None:
    artifact = load_wasm_artifact(path, sha256(MODULE))
    path.unlink()
    path.write_bytes(b"another")
    assert sha256(artifact.data) == sha256(artifact.module) == artifact.sha256 == sha256(MODULE)


# A14: path and file can part company between stat() and open(); the descriptor decides what is read. In a process of
# its own, because an audit hook stays for good.
SWAP = """
import os, sys
from capgate.errors import ArtifactNotFound
from capgate.store import load_wasm_artifact

path, armed = sys.argv[1], [True]

def swap(event, arguments):
    if event == "open" and arguments[0] == path and armed:
        armed.clear()
        os.unlink(path)
        os.mkfifo(path)

sys.addaudithook(swap)
try:
    load_wasm_artifact(path)
except ArtifactNotFound as error:
    print("swapped" if not armed else "not swapped", error.path)
"""


def test_a_file_swapped_for_a_fifo_before_it_is_opened_is_refused(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SWAP, str(path)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"swapped {path}\n", "")
    assert stat.S_ISFIFO(path.stat().st_mode)


# A15
def test_a_file_whose_size_is_not_what_was_said_is_refused() -> None:
    path = "/proc/self/status"  # a regular file that says 0 bytes and holds more
    with pytest.raises(ArtifactError) as caught:
        load_wasm_artifact(path)
    assert not isinstance(caught.value, ArtifactNotFound)
    assert caught.value.__cause__ is None


# A15
def test_an_error_of_reading_is_one_of_ours() -> None:
    with pytest.raises(ArtifactError) as caught:
        load_wasm_artifact("/proc/self/mem")  # a regular file whose first page cannot be read: EIO
    assert isinstance(caught.value.__cause__, OSError)


# A15
def test_no_descriptor_left_is_one_of_our_errors(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(ArtifactError) as caught:
            load_wasm_artifact(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not isinstance(caught.value, ArtifactNotFound)


class TestSize:
    # A18
    limits = Limits(module_bytes=1_024)

    def module_of(self, size: int) -> bytes:
        data = MODULE + custom(bytes(size - len(MODULE) - 7), "pad")
        assert len(data) == size
        return data

    def test_as_large_as_the_limit(self, path: Path) -> None:
        path.write_bytes(self.module_of(1_024))
        assert len(load_wasm_artifact(path, limits=self.limits).data) == 1_024

    def test_one_byte_more(self, path: Path) -> None:
        path.write_bytes(self.module_of(1_025))
        with pytest.raises(ArtifactError):
            load_wasm_artifact(path, limits=self.limits)
        with pytest.raises(ArtifactError):
            WasmArtifact.from_bytes(self.module_of(1_025), limits=self.limits)

    def test_ten_gigabytes_are_not_read(self, path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(10 << 30)  # sparse: it takes no room on the disk
        with pytest.raises(ArtifactError) as caught:
            load_wasm_artifact(path)
        assert caught.value.__cause__ is None

    def test_a_file_that_never_says_its_size_is_read_no_further_than_the_limit(self) -> None:
        # /proc/self/smaps says 0 bytes and holds tens of thousands.
        with pytest.raises(ArtifactError) as caught:
            load_wasm_artifact("/proc/self/smaps", limits=self.limits)
        assert f"{1_025} bytes or more" in str(caught.value)


class TestLabels:
    @pytest.mark.parametrize(
        ("payload", "name", "version"),
        [
            (b'{"name":"orders","version":"1.2.3","format":1}', "orders", "1.2.3"),
            ('{"name":"caf\u00e9","version":""}'.encode(), "", ""),
            (b'{"name":"orders"}', "", ""),
            (b'{"name":"","version":"7"}', "", ""),
            (msgspec.json.encode({"name": "x" * 100_000, "version": "1"}), "", ""),
            (b'{"name":"a","version":"1","more":' + b"[" * 100_000, "", ""),
            (b'{"name":' + b"[" * 100_000, "", ""),
            (b"{}", "", ""),
            (b"", "", ""),
            (b"[]", "", ""),
            (b"null", "", ""),
            (b'{"name":7}', "", ""),
            (b'{"name":"a","version":["1"]}', "", ""),
            (b'{"name":"a"', "", ""),
            (b'{"name":"\xff"}', "", ""),
            (b'{"name":"\\ud800"}', "", ""),
        ],
    )
    def test_of_a_custom_section(self, payload: bytes, name: str, version: str) -> None:
        artifact = WasmArtifact.from_bytes(MODULE + custom(payload))
        assert (artifact.name, artifact.version) == (name, version)

    def test_the_section_wins_over_the_file_name(self, path: Path) -> None:
        path.write_bytes(MODULE + custom(b'{"name":"inner","version":"7"}'))
        artifact = load_wasm_artifact(path)
        assert (artifact.name, artifact.version) == ("inner", "7")

    def test_of_a_component_come_from_the_module_inside(self) -> None:
        artifact = WasmArtifact.from_bytes(
            COMPONENT_HEADER + section(1, MODULE + custom(b'{"name":"inner","version":"7"}'))
        )
        assert artifact.name == "inner"


RULE = {"effect": "deny", "actions": ["db.read"], "actors": ["anonymous"]}
LOOKING = build_policy({"rules": [RULE]})


class TestInputs:
    """What answers may depend on; a cache of them goes by it."""

    def test_of_a_module_that_capgate_built(self) -> None:
        assert WasmArtifact.from_bytes(LOOKING).inputs == frozenset({"action", "actor", "resource"})
        assert WasmArtifact.from_bytes(build_policy({"sql": "any"})).inputs == frozenset({"action", "resource"})
        mode = {**RULE, "modes": ["dev"]}
        whole = frozenset({"action", "actor", "mode", "resource"})
        assert WasmArtifact.from_bytes(build_policy({"rules": [mode]})).inputs == whole

    def test_of_one_inside_a_component(self) -> None:
        artifact = WasmArtifact.from_bytes(COMPONENT_HEADER + section(1, LOOKING))
        assert artifact.is_component
        assert artifact.inputs == frozenset({"action", "actor", "resource"})

    @pytest.mark.parametrize("inputs", [b"", b'"action","resource"', b'"action","actor","mode","resource"'])
    def test_of_a_foreign_module_are_not_known(self, inputs: bytes) -> None:
        label = b'{"name":"inner","version":"7","format":2,"inputs":[%s]}' % inputs
        artifact = WasmArtifact.from_bytes(MODULE + custom(label))
        assert (artifact.name, artifact.inputs) == ("inner", None)

    def test_of_a_changed_label_are_not_known(self) -> None:
        label = decode(LOOKING).custom(POLICY_SECTION)
        assert label is not None
        less = label.replace(b'"actor",', b"")
        assert less != label
        for changed, inputs in ((label, frozenset({"action", "actor", "resource"})), (less, None)):
            artifact = WasmArtifact.from_bytes(encode(with_custom(decode(LOOKING), POLICY_SECTION, changed)))
            assert artifact.inputs == inputs


class TestDocument:
    def test_is_read_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.json"
        path.write_bytes(b'{"cache": "any"}')
        assert read_bytes(path, 65_536) == b'{"cache": "any"}'

    # A14
    def test_must_be_a_regular_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "policy.json")
        for path in (tmp_path, tmp_path / "policy.json", tmp_path / "absent.json", Path("/dev/zero")):
            with pytest.raises(ArtifactNotFound):
                read_bytes(path, 65_536)

    # A18
    def test_is_no_larger_than_a_module(self, tmp_path: Path) -> None:
        path = tmp_path / "policy.json"
        path.write_bytes(bytes(1_025))
        with pytest.raises(ArtifactError):
            read_bytes(path, 1_024)


# Policies of either kind.


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("p.toml", "toml"),
        ("p.TOML", "toml"),
        (".toml", "toml"),
        ("p.json", "json"),
        ("p", "json"),
        ("toml", "json"),
        ("p.toml.json", "json"),
        ("p.toml ", "json"),
    ],
)
def test_the_format_is_told_by_the_name(name: str, format: str, tmp_path: Path) -> None:
    assert document_format(name) == document_format(Path(name)) == format
    path = tmp_path / name
    path.write_text({"toml": 'sql = ["a"]', "json": '{"sql": ["a"]}'}[format])
    expected = RuntimePolicy.from_document({"sql": ["a"]})
    assert load_policy(path).actions == expected.actions
    found = read_policy(path)
    assert (found.raw, found.format, found.text) == ({"sql": ["a"]}, format, path.read_bytes())
    assert found.document is not None
    assert found.document.sha256 == sha256(path.read_bytes())


def test_a_bad_document_is_named_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("sql = []\nsqll = []\n")
    for read in (load_policy, read_policy):
        with pytest.raises(ConfigError) as caught:
            read(path)
        error = caught.value
        assert (error.setting, error.path, error.line, error.column) == ("sqll", str(path), 2, 1)


def test_a_module_is_one_by_its_content_or_its_name(tmp_path: Path) -> None:
    data = build_policy({"name": "shop"})
    for name in ("policy.wasm", "policy.json", "policy"):
        path = tmp_path / name
        path.write_bytes(data)
        found = read_policy(path)
        assert (found.document, found.policy.name, found.policy.sha256) == (None, "shop", sha256(data))
    path = tmp_path / "text.wasm"
    path.write_text("{}")
    with pytest.raises(ArtifactError):
        read_policy(path)
    with pytest.raises(ArtifactNotFound):
        read_policy(tmp_path / "absent.json")
    with pytest.raises(ArtifactError):
        read_policy(tmp_path / "policy.wasm", limits=Limits(module_bytes=1_024))
