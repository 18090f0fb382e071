"""What runs of a bundle: one module and its data, as the manifest says, and no file that OPA would take for another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capgate.artifact.bundle import read_bundle
from capgate.artifact.bundle.contents import DATA_BYTES, LISTED, MANIFEST_BYTES, YAML_BYTES
from capgate.artifact.bundle.exact_json import canonical_json, read_json
from capgate.artifact.load import OPA, read_policy
from capgate.errors import ArtifactError, BundleError, DecodeError, RestrictedModule
from capgate.limits import Limits
from capgate.store import WasmArtifact, load_wasm_artifact

from ...support.guests import guest, wat
from ...support.packing import DATA, FILES, MODULE, archive, manifest, member, pack, with_files

MOST = 64 << 20


def reason(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(data, MOST)
    return caught.value.reason


def data_of(files: dict[str, bytes]) -> Any:
    return json.loads(read_bundle(pack(files), MOST).data)


def test_a_bundle() -> None:
    found = read_bundle(pack(), MOST)
    assert (found.module, json.loads(found.data)) == (MODULE, DATA)
    bundle = found.bundle
    assert (bundle.revision, bundle.roots, bundle.entrypoints) == ("2026-11", ("orders",), ("orders/allow",))
    assert bundle.module == "policy.wasm"
    assert bundle.files == {name[1:]: len(content) for name, content in FILES.items()}
    assert (bundle.is_signed, bundle.signature) == (False, None)


def test_a_bundle_is_an_artifact(tmp_path: Path) -> None:
    path = tmp_path / "orders.v2.tar.gz"
    path.write_bytes(pack())
    artifact = load_wasm_artifact(path, WasmArtifact.from_bytes(pack()).sha256)
    assert (artifact.data, artifact.module, artifact.abi) == (pack(), MODULE, OPA)
    assert (artifact.name, artifact.version) == ("orders.v2", "2026-11")
    assert json.loads(artifact.rego_data) == DATA
    assert artifact.bundle is not None
    assert artifact.bundle.module == "policy.wasm"
    assert not artifact.is_component
    assert len({artifact, WasmArtifact(pack(), str(path))}) == 1
    path.rename(tmp_path / "anything")
    opened = read_policy(tmp_path / "anything")  # by how it begins, whatever it is called
    assert opened.document is None
    assert opened.policy == WasmArtifact(pack(), str(tmp_path / "anything"))


def test_a_bare_module_has_no_data() -> None:
    artifact = WasmArtifact.from_bytes(MODULE)
    assert (artifact.abi, artifact.rego_data, artifact.bundle) == (OPA, b"{}", None)


def test_without_a_manifest_everything_is_its_own() -> None:
    found = read_bundle(pack(with_files(manifest=None)), MOST)
    assert (found.bundle.roots, found.bundle.entrypoints, found.bundle.revision) == (("",), (), "")


# -- the module


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (with_files(module=None, manifest=None), "module"),
        ({**FILES, "/other.wasm": MODULE}, "module"),
        ({**FILES, "/orders/policy.wasm": MODULE}, "module"),
        ({"/orders/policy.wasm": MODULE}, "module"),  # nothing names it
        ({"/rules.wasm": MODULE}, "module"),
        (with_files(manifest=manifest(wasm=[{"entrypoint": "orders/allow", "module": "/other.wasm"}])), "module"),
        (
            with_files(
                manifest=manifest(
                    wasm=[
                        {"entrypoint": "orders/allow", "module": "/policy.wasm"},
                        {"entrypoint": "orders/deny", "module": "/other.wasm"},
                    ]
                )
            ),
            "module",
        ),
    ],
)
def test_exactly_one_module(files: dict[str, bytes], expected: str) -> None:
    assert reason(pack(files)) == expected


def test_the_manifest_may_name_another_module() -> None:
    entry = {"entrypoint": "orders/allow", "module": "/orders/rules.wasm"}
    files = {"/orders/rules.wasm": MODULE, "/.manifest": manifest(wasm=[entry, {**entry, "entrypoint": "orders/x"}])}
    found = read_bundle(pack(files), MOST)
    assert (found.bundle.module, found.bundle.entrypoints) == ("orders/rules.wasm", ("orders/allow", "orders/x"))


def test_the_module_has_to_be_one_of_opas() -> None:
    with pytest.raises(BundleError) as caught:
        WasmArtifact.from_bytes(pack(with_files(module=guest())))
    assert (caught.value.reason, caught.value.member) == ("module", "policy.wasm")
    with pytest.raises(DecodeError):
        WasmArtifact.from_bytes(pack(with_files(module=b"no module")))
    with pytest.raises(RestrictedModule):
        WasmArtifact.from_bytes(pack(with_files(module=wat("(component)"))))


def test_the_limit_counts_everything_in_it(tmp_path: Path) -> None:  # A18
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(pack({**FILES, "/notes.txt": b"x" * 100_000}))
    assert path.stat().st_size < 20_000
    with pytest.raises(BundleError) as caught:
        load_wasm_artifact(path, limits=Limits(module_bytes=50_000))
    assert (caught.value.reason, caught.value.path) == ("size", str(path))
    assert load_wasm_artifact(path, limits=Limits(module_bytes=200_000)).bundle is not None


# -- names that mean something


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/patch.json", "delta"),
        ("/orders/patch.json", "delta"),
        ("/data.yml", "data"),
        ("/orders/data.yml", "data"),
        ("/.hidden/data.yaml", "name"),
        ("/signatures.json", "name"),
        ("/orders/.signatures.json", "name"),
        ("/my-signatures.json", "name"),
        ("/orders/.manifest", "name"),
        ("/old.manifest", "name"),
        ("/.hidden/data.json", "name"),
    ],
)
def test_files_that_opa_takes_for_something_else(name: str, expected: str) -> None:
    assert reason(pack({**FILES, name: b"{}"})) == expected


def test_other_files_are_there_and_say_nothing() -> None:
    assert data_of({**FILES, "/plan.json": b"not JSON", "/README.md": b"\xff", "/orders/more.json": b"["}) == DATA


# -- the manifest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "manifest"),
        (b"[]", "manifest"),
        (b"null", "manifest"),
        (b"{} {}", "manifest"),
        (b'{"roots": [], "roots": [""]}', "manifest"),
        (b'{"revision": NaN}', "manifest"),
        (b"\xef\xbb\xbf{}", "manifest"),
        (b'{"metadata": ' + b"[" * 5_000, "manifest"),
        (b'{"metadata": {"a": ' + b"[" * 300 + b"]" * 300 + b"}}", "manifest"),
        (b" " * MANIFEST_BYTES + b"{}", "size"),
        (manifest(colour="blue"), "manifest"),
        (manifest(revision=7), "manifest"),
        (manifest(revision="a\nb"), "manifest"),
        (manifest(revision="x" * 257), "manifest"),
        (manifest(roots="orders"), "manifest"),
        (manifest(roots=[""] * (LISTED + 1)), "manifest"),
        (manifest(rego_version=2), "manifest"),
        (manifest(rego_version="1"), "manifest"),
        (manifest(file_rego_versions={"/a.rego": 3}), "manifest"),
        (manifest(wasm=[{"entrypoint": "orders/allow"}]), "manifest"),
        (manifest(wasm=[{"module": "/policy.wasm"}]), "manifest"),
        (manifest(wasm=[{"entrypoint": "", "module": "/policy.wasm"}]), "manifest"),
        (manifest(wasm=[{"entrypoint": "orders/allow", "module": "/policy.wasm"}] * 2), "manifest"),
        (manifest(wasm=[{"entrypoint": "orders/allow", "module": "/policy.wasm", "x": 1}]), "manifest"),
        (manifest(wasm=[{"entrypoint": "payments/allow", "module": "/policy.wasm"}]), "roots"),
        (manifest(wasm=[{"entrypoint": "orders2/allow", "module": "/policy.wasm"}]), "roots"),
        (manifest(roots=["orders", "orders"]), "manifest"),
        (manifest(roots=["orders", "orders/rules"]), "manifest"),
        (manifest(roots=["/orders/", "orders"]), "manifest"),
        (manifest(roots=["", "orders"]), "manifest"),
    ],
)
def test_manifests_that_are_refused(text: bytes, expected: str) -> None:
    assert reason(pack(with_files(manifest=text))) == expected


def test_what_else_a_manifest_may_say() -> None:
    annotated = [{"entrypoint": "orders/allow", "module": "/policy.wasm", "annotations": [{"scope": "package"}]}]
    text = manifest(roots=["/orders/", "http"], metadata={"built": {"by": 1e300}}, file_rego_versions={"/a.rego": 0})
    assert read_bundle(pack(with_files(manifest=text)), MOST).bundle.roots == ("orders", "http")
    assert read_bundle(pack(with_files(manifest=manifest(wasm=annotated))), MOST).bundle.entrypoints


# -- the data


def test_data_are_merged_at_their_paths() -> None:
    files = {
        "/policy.wasm": MODULE,
        "/a/b/data.json": b"[1, 2]",
        "/data.json": b'{"a": {"c": {"d": null}}, "e": 0}',
        "/a/c/data.json": b'{"f": "g"}',
        "/a/c/h/data.json": b"{}",
    }
    assert data_of(files) == {"a": {"b": [1, 2], "c": {"d": None, "f": "g", "h": {}}}, "e": 0}
    assert data_of({"/policy.wasm": MODULE}) == {}


def test_data_in_yaml_are_those_in_json() -> None:  # P-15
    text = b"""# what a person wrote
orders: &o
  admins: [ana, "b\\u00f6"]
  limit: 100
  share: -0.25
  open: true
  none: ~
again: *o
"""
    value = {"admins": ["ana", "b\u00f6"], "limit": 100, "share": -0.25, "open": True, "none": None}
    files = {"/policy.wasm": MODULE, "/data.yaml": text, "/orders/eu/data.yaml": b"- 1\n", "/data.json": b'{"x": 1}'}
    assert data_of(files) == {"orders": {**value, "eu": [1]}, "again": value, "x": 1}
    # JSON is YAML, and read as JSON first, as by OPA: with numbers as they are written.
    same = dict.fromkeys(("/data.json", "/b/data.yaml"), b'{"a": [1e3, 1.0, 123456789012345678901]}')
    assert read_bundle(pack({"/policy.wasm": MODULE, **same}), 1 << 20).data == (
        b'{"a":[1e3,1.0,123456789012345678901],"b":{"a":[1e3,1.0,123456789012345678901]}}'
    )


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"- 1", b"1", b"a: 1\na: 2", b"a: yes", b"a: 1_000", b"a: 0o7", b"a: 010", b"a: 1.0", b"a: 1e3"),
        *(
            b"a: 2024-01-01",
            b"1: a",
            b"a: !!str 1",
            b"a: 0.0000001",
            b"a: 1\n---\nb: 2",
            b"<<: {a: 1}",
            b"a: [",
            b"\xff",
        ),
        *(b"%YAML 1.1\n---\na: 1", b'a: "\\ud800"', b"a: " + b"[" * 60 + b"]" * 60, b'{"a": 1, "a": 2}', b"a: *b"),
    ],
)
def test_yaml_in_which_readers_differ_is_refused(text: bytes) -> None:
    assert reason(pack({"/policy.wasm": MODULE, "/data.yaml": text})) == "data"
    assert reason(pack({"/policy.wasm": MODULE, "/a/data.yaml": text, "/data.json": b'{"a": {"b": 1}}'})) == "data"


def test_yaml_is_bounded() -> None:  # A18
    bomb = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (n, n, b", ".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 110)
    )
    assert reason(pack({"/policy.wasm": MODULE, "/data.yaml": bomb})) == "data"
    large = b"a: " + b"x" * YAML_BYTES
    assert reason(pack({"/policy.wasm": MODULE, "/data.yaml": large})) == "size"
    half = b"a: " + b"x" * (YAML_BYTES // 2)
    assert reason(pack({"/policy.wasm": MODULE, "/b/data.yaml": half, "/c/data.yaml": half})) == "size"


def test_yaml_without_its_reader_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/policy.wasm": MODULE, "/data.yaml": b"a: 1\n"}
    assert data_of(files) == {"a": 1}
    monkeypatch.setattr("capgate.rego.yamls.yaml", None)
    assert reason(pack(files)) == "data"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/data.json": b"[]"}, "data"),
        ({"/data.json": b"1"}, "data"),
        ({"/data.json": b""}, "data"),
        ({"/data.json": b'{"a": 1, "a": 1}'}, "data"),
        ({"/data.json": b'{"a": NaN}'}, "data"),
        ({"/data.json": b'{"a": -Infinity}'}, "data"),
        ({"/data.json": b'{"a": 01}'}, "data"),
        ({"/data.json": b'{"a": "\\ud800"}'}, "data"),
        ({"/data.json": b'{"a": "\xff"}'}, "data"),
        ({"/data.json": b"{} {}"}, "data"),
        ({"/data.json": b"\xef\xbb\xbf{}"}, "data"),
        ({"/data.json": b'{"a":' * 300 + b"1" + b"}" * 300}, "data"),
        ({"/data.json": b'{"a":' * 90_000}, "data"),
        ({"/data.json": b'{"a": {"b": 1}}', "/a/data.json": b'{"b": 2}'}, "data"),
        ({"/data.json": b'{"a": {"b": 1}}', "/a/data.json": b'{"b": 1}'}, "data"),
        ({"/data.json": b'{"a": {"b": true}}', "/a/data.json": b'{"b": true}'}, "data"),
        ({"/data.json": b'{"a": 1}', "/a/data.json": b"{}"}, "data"),
        ({"/data.json": b'{"a": {}}', "/a/data.json": b"[]"}, "data"),
        ({"/data.json": b'{"a": "' + b"x" * DATA_BYTES + b'"}'}, "size"),
    ],
)
def test_data_that_are_refused(files: dict[str, bytes], expected: str) -> None:
    assert reason(pack({"/policy.wasm": MODULE, **files})) == expected


@pytest.mark.parametrize(
    ("roots", "data", "permitted"),
    [
        ([""], {"x": 1}, True),
        ([], {}, True),
        ([], {"x": {}}, False),
        (["a"], {}, True),
        (["a"], {"a": 1}, True),
        (["a"], {"a": {"b": 1}}, True),
        (["a"], {"ab": 1}, False),
        (["a"], {"A": 1}, False),
        (["a"], {"b": {}}, False),
        (["a"], {"a": 1, "b": 1}, False),
        (["a/b"], {"a": {"b": 1}}, True),
        (["a/b"], {"a": {}}, True),
        (["a/b"], {"a": 1}, False),
        (["a/b"], {"a": {"c": 1}}, False),
        (["a/b"], {"a/b": 1}, False),
        (["a/b", "c"], {"a": {"b": {"x": 1}}, "c": 0}, True),
        (["a/b", "c"], {"b": 1}, False),
    ],
)
def test_data_stay_within_the_roots(roots: list[str], data: Any, permitted: bool) -> None:
    text = manifest(roots=roots, wasm=None)
    files = {"/policy.wasm": MODULE, "/data.json": json.dumps(data).encode(), "/.manifest": text}
    if permitted:
        assert data_of(files) == data
    else:
        assert reason(pack(files)) == "roots"


# What Go's encoding/json writes without HTML escapes, which is what OPA hashes.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"b": 1, "a": [true, false, null]}', '{"a":[true,false,null],"b":1}'),
        ('{"n": [1.0, 1e3, -0, 123456789012345678901234567890, 0.10]}',) * 2,
        ('"<a href=\\"x\\">&\\/"', '"<a href=\\"x\\">&/"'),
        ('"\\u0000\\u0008\\u000c\\n\\r\\t\\u001f\\u007f"', '"\\u0000\\b\\f\\n\\r\\t\\u001f\x7f"'),
        ('"\\u2028\\u2029\\u2027"', '"\\u2028\\u2029\u2027"'),
        ('"\\ud83d\\ude00 \\u00e9"', '"\U0001f600 \u00e9"'),
        ('{"\U0001f600": 1, "\ufffd": 2, "z": 3}', '{"z":3,"\ufffd":2,"\U0001f600":1}'),
        ("{}", "{}"),
        ("[]", "[]"),
        ('[{}, [], ""]', '[{},[],""]'),
    ],
)
def test_the_canonical_text(text: str, expected: str) -> None:
    if text == expected:
        expected = text.replace(" ", "")
    assert canonical_json(read_json(text.encode(), "data.json"), "data.json") == expected.encode()


def test_every_error_names_the_file() -> None:
    with pytest.raises(ArtifactError) as caught:
        read_bundle(archive(member("policy.wasm", MODULE), member("a/data.json", b"x")), MOST, path="b.tar.gz")
    assert isinstance(caught.value, BundleError)
    assert (caught.value.member, caught.value.path) == ("a/data.json", "b.tar.gz")
