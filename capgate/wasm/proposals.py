"""Lists what WebAssembly has beyond what a policy may use, as data: immediates, types, and how to build without it.

Sources: the core specification 3.0, section 5.4, and the proposals at github.com/WebAssembly. Used to say all that a
module needs, and never to admit one.
"""

from __future__ import annotations

from typing import Final

_MANAGED: Final = "compile it by a compiler whose objects live in linear memory, such as Rust, C, Zig, TinyGo"
#: Feature -> how a module becomes one without it. Flags of Clang are those of ``zig cc``; Rust has them as
#: ``-C target-feature=-NAME``; ``wasm-opt`` is Binaryen's.
REMEDIES: Final[dict[str, str]] = {
    "simd": "-mno-simd128",
    "relaxed-simd": "-mno-relaxed-simd",
    "threads": "-mno-atomics, and link without -pthread and --shared-memory",
    "tail-call": "-mno-tail-call",
    "exceptions": "-fno-exceptions -mno-exception-handling (Rust: -C panic=abort)",
    "memory64": "--target=wasm32, or wasm-opt --memory64-lowering",
    "multi-memory": "-mno-multimemory, or wasm-opt --multi-memory-lowering",
    "custom-page-sizes": "link without --page-size",
    "extended-const": "-mno-extended-const",
    "wide-arithmetic": "-mno-wide-arithmetic",
    "function-references": _MANAGED,
    "gc": _MANAGED,
    "stringref": _MANAGED,
    "stack-switching": "build without stack switching",
}
ALL_FEATURES: Final = "-mcpu=mvp (Rust: -C target-cpu=mvp) leaves out every one that a flag can"

#: Beginnings of names that modules import from -> how a module becomes one that does not. The first that fits counts.
IMPORT_REMEDIES: Final = (
    ("wasi", "build for no system: --target wasm32-unknown-unknown, wasm32-freestanding, TinyGo -target=wasm-unknown"),
    ("__wbindgen", "build without wasm-bindgen"),
    ("gojs", "build by TinyGo with -target=wasm-unknown"),
    ("", "link everything statically, without --allow-undefined and --import-memory"),
)

#: Opcodes of one byte -> their immediates, as :class:`capgate.wasm.survey.Scan` reads them.
IMMEDIATES_OF: Final[dict[int, str]] = {
    0x06: "block",
    0x07: "u32",
    0x08: "u32",
    0x09: "u32",
    0x0A: "-",
    0x12: "u32",
    0x13: "u32 u32",
    0x14: "u32",
    0x15: "u32",
    0x18: "u32",
    0x19: "-",
    0x1F: "catches",
    0xD3: "-",
    0xD4: "-",
    0xD5: "u32",
    0xD6: "u32",
}
#: The same of those behind 0xFB. From 0x80 on they are stringref's.
GC_IMMEDIATES: Final[dict[int, str]] = {
    **dict.fromkeys((0, 1, 6, 7, 11, 12, 13, 14, 16), "u32"),
    **dict.fromkeys((2, 3, 4, 5, 8, 9, 10, 17, 18, 19), "u32 u32"),
    **dict.fromkeys((15, 26, 27, 28, 29, 30), "-"),
    **dict.fromkeys((20, 21, 22, 23), "heap"),
    **dict.fromkeys((24, 25), "byte u32 heap heap"),
    **dict.fromkeys((0x80, 0x81, 0x82, 0x86, 0x87, 0x8B, 0x8C, 0x8D, 0x8E), "u32"),
}
STRINGREF: Final = 0x80

#: Behind 0xFD: those that are not without immediates. From 0x100 on they are relaxed ones.
SIMD_IMMEDIATES: Final[dict[int, str]] = {
    **dict.fromkeys((*range(12), 92, 93), "memarg"),
    **dict.fromkeys((12, 13), "bytes16"),
    **dict.fromkeys(range(21, 35), "byte"),
    **dict.fromkeys(range(84, 92), "memarg byte"),
}
RELAXED: Final = 0x100

#: Bytes of value types, and of heap types, that are not those of WebAssembly 2.0.
TYPES: Final[dict[int, str]] = {
    0x7B: "simd",
    **dict.fromkeys((0x63, 0x64), "function-references"),
    **dict.fromkeys((0x6A, 0x6B, 0x6C, 0x6D, 0x6E, 0x71, 0x72, 0x73, 0x77, 0x78), "gc"),
    **dict.fromkeys((0x69, 0x74), "exceptions"),
    **dict.fromkeys((0x68, 0x75), "stack-switching"),
    **dict.fromkeys((0x61, 0x62, 0x66, 0x67), "stringref"),
    0x65: "threads",
}

#: Instructions that a constant expression may have by the proposal ``extended-const``.
EXTENDED: Final = frozenset({0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E})
