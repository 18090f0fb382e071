"""What OPA documents for each builtin: arguments and result as Rego text.

The results come from OPA's reference (https://www.openpolicyagent.org/docs/policy-reference) and conformance tests,
from the documentation of the Go functions that they are made of, and from the standards that those follow.
``UNDEFINED`` stands for a builtin's error or for no result, ``deny(reason)`` for what is not computed here: there is no
one answer, or it takes too much.
"""

from __future__ import annotations

from typing import Final, NamedTuple

UNDEFINED: Final = "undefined"
#: 2006-01-02T15:04:05.123456789Z
NOW: Final = 1136214245123456789


class Case(NamedTuple):
    """A call: the name of the builtin, a Rego array of its arguments, and what comes of it."""

    name: str
    arguments: str
    expected: str


def deny(reason: str) -> str:
    """What a call comes to that is denied with this reason."""
    return f"deny {reason}"


def _cases(table: dict[str, list[tuple[str, str]]]) -> list[Case]:
    return [Case(name, arguments, expected) for name, rows in table.items() for arguments, expected in rows]


SPRINTF: Final = _cases(
    {
        "sprintf": [
            ('["%s", ["a"]]', '"a"'),
            ('["%d of %v", [1, 2.5]]', '"1 of 2.5"'),
            ('["hello", []]', '"hello"'),
            ('["", []]', '""'),
            # Everything but numbers and strings is its Rego text.
            (
                '["%s %v %s", [{"b": {2, 1}, "a": null}, [true, "x"], set()]]',
                '"{\\"a\\": null, \\"b\\": {1, 2}} [true, \\"x\\"] set()"',
            ),
            ('["%v", [true]]', '"true"'),
            ('["%t", [true]]', '"%!t(string=true)"'),
            # Integers of any size.
            ('["%s", [123456789123456789123]]', '"123456789123456789123"'),
            ('["%d|%x", [18446744073709551616, 18446744073709551616]]', '"18446744073709551616|10000000000000000"'),
            ('["%T", [18446744073709551616]]', '"*big.Int"'),
            ('["%q", [18446744073709551616]]', '"%!q(big.Int=18446744073709551616)"'),
            # What Go's documentation shows of fmt.
            ('["%b %o %O %x %X %c %U", [23, 23, 23, 255, 255, 8984, 8984]]', '"10111 27 0o27 ff FF ⌘ U+2318"'),
            ('["%#o %#x %#X %#b %#U", [23, 255, 255, 5, 8984]]', "\"027 0xff 0XFF 0b101 U+2318 '⌘'\""),
            ('["%q %#q %+q %q", ["a\\"b", "a`b", "⌘", 65]]', '"\\"a\\\\\\"b\\" \\"a`b\\" \\"\\\\u2318\\" \'A\'"'),
            ('["%x|% x|%#x|% #X", ["hi!", "hi!", "hi!", "hi!"]]', '"686921|68 69 21|0x686921|0X68 0X69 0X21"'),
            ('["%6d|%-6d|%06d|%+d|% d", [42, 42, 42, 42, 42]]', '"    42|42    |000042|+42| 42"'),
            ('["%06d|%6.3d|%-+8.3d|%.0d|", [-42, 7, 7, 0]]', '"-00042|   007|+007    ||"'),
            (
                '["%e|%f|%g|%G|%v", [123456.789, 1.5, 1e21, 1e-7, 1234567.0]]',
                '"1.234568e+05|1.500000|1e+21|1E-07|1.234567e+06"',
            ),
            (
                '["%6.2f|%-8.3f|%08.3f|%+.1e", [3.14159, 3.14159, -3.14159, 12345.678]]',
                '"  3.14|3.142   |-003.142|+1.2e+04"',
            ),
            ('["%v %v %v", [100000.0, 1000000.0, 0.0001]]', '"100000 1e+06 0.0001"'),
            ('["%v %g", [0.00001, 123456789.0]]', '"1e-05 1.23456789e+08"'),
            ('["%x %b", [1.5, 1.0]]', '"0x1.8p+00 4503599627370496p-52"'),
            ('["%.3s|%5s|%-5s|%05s", ["héllo", "é", "é", "a"]]', '"hél|    é|é    |0000a"'),
            ('["%[2]d %[1]d", [11, 22]]', '"22 11"'),
            ('["%[3]*.[2]*[1]f", [12.0, 2, 6]]', '" 12.00"'),
            ('["%6.2f", [12]]', '"%!f(int=    12)"'),
            ('["%*d|%-*d|", [5, 42, 5, 42]]', '"   42|42   |"'),
            ('["100%%", []]', '"100%"'),
            # Mistakes, in Go's words.
            ('["%d", ["hi"]]', '"%!d(string=hi)"'),
            ('["%d", [1.0]]', '"%!d(float64=1)"'),
            ('["hi%d", []]', '"hi%!d(MISSING)"'),
            ('["%s", ["a", "b", 3]]', '"a%!(EXTRA string=b, int=3)"'),
            ('["%!", [1]]', '"%!!(int=1)"'),
            ('["%!", []]', '"%!!(MISSING)"'),
            ('["%", [1]]', '"%!(NOVERB)%!(EXTRA int=1)"'),
            ('["%.", [3]]', '"%!.(int=3)"'),
            ('["%z %-010.2z", [1, "x"]]', '"%!z(int=1) %!z(string=x         )"'),
            ('["%[5]d", [1]]', '"%!d(BADINDEX)"'),
            ('["%[x]d %[]d %[-1]d", [1]]', '"%!d(BADINDEX) %!d(BADINDEX) %!d(BADINDEX)"'),
            ('["%*d", ["a", 1]]', '"%!(BADWIDTH)1"'),
            ('["%.*d", ["a", 1]]', '"%!(BADPREC)1"'),
            ('["%*d", [10000001, 1]]', '"%!(BADWIDTH)1"'),
            ('["%1000000000d", [1]]', '"%!(NOVERB)%!(EXTRA int=1)"'),
            # A number that no float can take goes in as its text.
            ('["%v|%d", [1e999, 1e999]]', '"1e999|%!d(string=1e999)"'),
            ('["%d", 1]', UNDEFINED),
            ("[1, []]", UNDEFINED),
            ('["%d", {1}]', UNDEFINED),
            ('["%999999d", [1]]', deny("limit")),
            ('["%.999999f", [1.5]]', deny("limit")),
            ('["%p", [18446744073709551616]]', deny("ambiguous")),
        ],
        "internal.template_string": [
            ('[["a ", 1, " ", {"b"}, {[1, "c"]}, set(), null]]', '"a 1 b[1, \\"c\\"]<undefined>null"'),
            ("[[{1, 2}]]", deny("ambiguous")),
            ('["a"]', UNDEFINED),
        ],
    }
)

STRINGS: Final = _cases(
    {
        "strings.any_prefix_match": [
            ('[["foo", "bar"], ["x", "ba"]]', "true"),
            ('["foobar", "foo"]', "true"),
            ('[{"a", "b"}, {"c"}]', "false"),
            ('[[], ["a"]]', "false"),
            ('["a", []]', "false"),
            ('[["a"], ""]', "true"),
            ('[[1], ["a"]]', UNDEFINED),
            ('[1, "a"]', UNDEFINED),
        ],
        "strings.any_suffix_match": [
            ('[["foo.go", "bar"], {".go", ".py"}]', "true"),
            ('["foobar", "foo"]', "false"),
            ('["a", [1]]', UNDEFINED),
        ],
        "strings.count": [
            ('["cheese", "e"]', "3"),
            ('["hello hello hello world", "hello"]', "3"),
            ('["dummy", "x"]', "0"),
            ('["five", ""]', "5"),
            ('["aaa", "aa"]', "1"),
            ('[1, "a"]', UNDEFINED),
        ],
        "strings.reverse": [('["abc"]', '"cba"'), ('["1😀é"]', '"é😀1"'), ('[""]', '""'), ("[1]", UNDEFINED)],
        "strings.split_n": [
            ('["a.b.c.d", ".", 2]', '["a", "b"]'),
            ('["a.b.c.d", ".", -2]', '["c", "d"]'),
            ('["a.b.c.d", ".", 0]', "[]"),
            ('["a.b.c.d", ".", 10]', '["a", "b", "c", "d"]'),
            ('["abc", "", -2]', '["b", "c"]'),
            ('["", ".", 2]', '[""]'),
            ('["a", ".", 1.5]', UNDEFINED),
        ],
        "indexof_n": [
            ('["sad", "a"]', "[1]"),
            ('["sadad", "ad"]', "[1, 3]"),
            ('["aaa", "aa"]', "[0, 1]"),
            ('["μx", "x"]', "[1]"),
            ('["abc", "d"]', "[]"),
            ('["abc", ""]', UNDEFINED),
            ('[1, "a"]', UNDEFINED),
        ],
        "glob.quote_meta": [
            ('["*.github.com"]', '"\\\\*.github.com"'),
            ('["a?[b]{c,d}\\\\"]', '"a\\\\?\\\\[b\\\\]\\\\{c,d\\\\}\\\\\\\\"'),
            ("[1]", UNDEFINED),
        ],
        "regex.split": [
            ('["/", "a/b/c"]', '["a", "b", "c"]'),
            ('["a", "banana"]', '["b", "n", "n", ""]'),
            ('["z+", "pizza"]', '["pi", "a"]'),
            ('["", "abc"]', '["a", "b", "c"]'),
            ('["a*", "baac"]', '["b", "c"]'),
            ('["a", ""]', '[""]'),
            ('["", ""]', "[]"),
            ('["é", "aébéc"]', '["a", "b", "c"]'),
            ('["[", "abc"]', UNDEFINED),
            ('[1, "abc"]', UNDEFINED),
            ('["\\\\C", "abc"]', deny("ambiguous")),
            ('["(?<x>a)", "abc"]', deny("ambiguous")),
        ],
        "regex.find_n": [
            ('["a.", "paranormal", -1]', '["ar", "an", "al"]'),
            ('["a.", "paranormal", 2]', '["ar", "an"]'),
            ('["a.", "paranormal", 0]', "[]"),
            ('["a*", "baaac", -1]', '["", "aaa", ""]'),
            ('["^", "ab", -1]', '[""]'),
            ('["x", "abc", -1]', "[]"),
            ('["(?i)É", "éÉ", -1]', '["é", "É"]'),
            ('["(a", "abc", -1]', UNDEFINED),
            ('["a", "abc", 1.5]', UNDEFINED),
        ],
        "regex.replace": [
            ('["-wy-wxxy-", "w(x*)y", "0"]', '"-0-0-"'),
            ('["foo", "(foo)", "$1$1"]', '"foofoo"'),
            ('["ab", "(?P<x>a)", "[${x}]$$$2$x1$"]', '"[a]$$b"'),
            ('["-ab-axxb-", "a(x*)b", "${1}W"]', '"-W-xxW-"'),
            ('["-ab-axxb-", "a(x*)b", "$1W"]', '"---"'),
            ('["abc", "z", "y"]', '"abc"'),
            ('["foo", "[", "$1"]', UNDEFINED),
            ('["foo", "o", 1]', UNDEFINED),
            ('["aaa", "^a", "b"]', deny("ambiguous")),
            ('["^abc", "^.", "b"]', deny("ambiguous")),
            ('["ab", "x*", "-"]', deny("ambiguous")),
        ],
        "regex.template_match": [
            ('["urn:foo:{.*}", "urn:foo:bar:baz", "{", "}"]', "true"),
            ('["urn:foo:<[a-z]+>:x", "urn:foo:1:x", "<", ">"]', "false"),
            ('["a.b{x}", "aXbx", "{", "}"]', "false"),
            ('["urn:foo:{.*", "urn:foo:bar", "{", "}"]', UNDEFINED),
            ('["urn:foo:{[}", "urn:foo:bar", "{", "}"]', UNDEFINED),
            ('["a", "a", "<<", "}"]', UNDEFINED),
            ('["a", "a", "é", "}"]', UNDEFINED),
        ],
    }
)

DIGESTS: Final = _cases(
    {
        # RFC 1321, FIPS 180-4.
        "crypto.md5": [('["abc"]', '"900150983cd24fb0d6963f7d28e17f72"'), ("[1]", UNDEFINED)],
        "crypto.sha1": [('["abc"]', '"a9993e364706816aba3e25717850c26c9cd0d89d"'), ("[1]", UNDEFINED)],
        "crypto.sha256": [
            ('["abc"]', '"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"'),
            ('[""]', '"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"'),
            ("[null]", UNDEFINED),
        ],
        # RFC 2202 and RFC 4231, test case 2.
        "crypto.hmac.md5": [('["what do ya want for nothing?", "Jefe"]', '"750c783e6ab0b503eaa86e310a5db738"')],
        "crypto.hmac.sha1": [
            ('["what do ya want for nothing?", "Jefe"]', '"effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"')
        ],
        "crypto.hmac.sha256": [
            (
                '["what do ya want for nothing?", "Jefe"]',
                '"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"',
            ),
            ('["a", 1]', UNDEFINED),
        ],
        "crypto.hmac.sha512": [
            (
                '["what do ya want for nothing?", "Jefe"]',
                '"164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554'
                '9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"',
            )
        ],
        "crypto.hmac.equal": [('["ab", "ab"]', "true"), ('["ab", "é"]', "false"), ('["ab", 1]', UNDEFINED)],
    }
)

ENCODINGS: Final = _cases(
    {
        "hex.encode": [('["é!"]', '"c3a921"'), ("[1]", UNDEFINED)],
        "hex.decode": [
            ('["c3A921"]', '"é!"'),
            ('[""]', '""'),
            ('["abc"]', UNDEFINED),
            ('["0g"]', UNDEFINED),
            ('["61 62"]', UNDEFINED),
            ('["ff"]', deny("text")),
        ],
        "base64url.encode_no_pad": [
            ('["some text"]', '"c29tZSB0ZXh0"'),
            ('["~~?"]', '"fn4_"'),
            ('["a"]', '"YQ"'),
            ("[1]", UNDEFINED),
        ],
        "urlquery.encode": [
            ('["x=https://w.org/ä ~*"]', '"x%3Dhttps%3A%2F%2Fw.org%2F%C3%A4+~%2A"'),
            ("[1]", UNDEFINED),
        ],
        "urlquery.decode": [
            ('["x%3Dhttps%3A%2F%2Fw.org%2F%C3%A4+~"]', '"x=https://w.org/ä ~"'),
            ('["%zz"]', UNDEFINED),
            ('["100%"]', UNDEFINED),
            ('["%ff"]', deny("text")),
        ],
        "urlquery.encode_object": [
            ('[{"a": "b", "c": ["d", "e"], "f": {"h", "g"}}]', '"a=b&c=d&c=e&f=g&f=h"'),
            ('[{"a b": "&"}]', '"a+b=%26"'),
            ("[{}]", '""'),
            ('[{"a": 1}]', UNDEFINED),
            ('[["a"]]', UNDEFINED),
        ],
        "urlquery.decode_object": [
            ('["a=b&c=d&c=e&f"]', '{"a": ["b"], "c": ["d", "e"], "f": [""]}'),
            ('["a=1%202&&"]', '{"a": ["1 2"]}'),
            ('[""]', "{}"),
            ('["a=%zz"]', UNDEFINED),
            ('["a;b"]', UNDEFINED),
        ],
        "json.is_valid": [
            ('["{\\"a\\": [1, 2.5e3]}"]', "true"),
            ('["{"]', "false"),
            ('["NaN"]', "false"),
            ("[1]", "false"),
        ],
        "json.marshal_with_options": [
            ('[{"b": [1, {}], "a": "<"}, {}]', '"{\\"a\\":\\"\\\\u003c\\",\\"b\\":[1,{}]}"'),
            ('[{"a": [1, 2.50]}, {"indent": " "}]', '"{\\n \\"a\\": [\\n  1,\\n  2.50\\n ]\\n}"'),
            (
                '[{"a": {2, 1}}, {"pretty": true, "prefix": "> "}]',
                '"> {\\n> \\t\\"a\\": [\\n> \\t\\t1,\\n> \\t\\t2\\n> \\t]\\n> }"',
            ),
            ('[[1], {"pretty": false, "indent": "x"}]', '"[1]"'),
            ("[{1: true}, {}]", '"{\\"1\\":true}"'),
            ('["\\u2028\\u0001\\n", {}]', '"\\"\\\\u2028\\\\u0001\\\\n\\""'),
            ('[1, {"other": 1}]', UNDEFINED),
            ('[1, {"indent": 1}]', UNDEFINED),
            ('["\\b", {}]', deny("ambiguous")),
        ],
        "yaml.unmarshal": [
            (
                '["a: 1\\nb:\\n- x\\n- true\\n- ~\\n- \\"yes\\"\\n- -2.5\\n"]',
                '{"a": 1, "b": ["x", true, null, "yes", -2.5]}',
            ),
            ('["- &x {a: b}\\n- *x"]', '[{"a": "b"}, {"a": "b"}]'),
            ('[""]', "null"),
            ('["- 10m\\n- 1.2.3\\n- 1st of 2"]', '["10m", "1.2.3", "1st of 2"]'),
            ('["a: [b"]', UNDEFINED),
            ("[1]", UNDEFINED),
            *[
                (f'["a: {text}"]', deny("ambiguous"))
                for text in ("yes", "012", "1_000", "12:30", "2001-01-01", "0x1f", ".inf", "1e3")
            ],
            ('["a: 1\\na: 2"]', deny("ambiguous")),
            ('["<<: {a: 1}"]', deny("ambiguous")),
            ('["1: a"]', deny("ambiguous")),
            ('["!!str 1"]', deny("ambiguous")),
            ('["a\\n---\\nb"]', deny("ambiguous")),
        ],
        "yaml.is_valid": [
            ('["a: b"]', "true"),
            ('["a: [b"]', "false"),
            ("[1]", "false"),
            ('["a: yes"]', deny("ambiguous")),
        ],
    }
)

NUMBERS: Final = _cases(
    {
        "numbers.range_step": [
            ("[1, 10, 3]", "[1, 4, 7, 10]"),
            ("[10, 1, 4]", "[10, 6, 2]"),
            ("[5, 5, 2]", "[5]"),
            ("[1.0, 3, 1]", "[1, 2, 3]"),
            ("[0, 2, 0]", UNDEFINED),
            ("[0, 2, -1]", UNDEFINED),
            ("[1.5, 2, 1]", UNDEFINED),
            ("[0, 100000000, 1]", deny("limit")),
        ],
        "units.parse": [
            ('["1G"]', "1000000000"),
            ('["128Gi"]', "137438953472"),
            ('["10"]', "10"),
            ('["10K"]', "10000"),
            ('["100m"]', "0.1000000000"),
            ('["0.0005"]', "0.0005000000"),
            ('["1.5MI"]', "1572864"),
            ('["\\"8k\\""]', "8000"),
            ('["1e3Ki"]', "1024000"),
            ('["-5E"]', "-5000000000000000000"),
            ('["G"]', UNDEFINED),
            ('["0.0.0"]', UNDEFINED),
            ('["100 k"]', UNDEFINED),
            ('["10KB"]', UNDEFINED),
            ('[""]', UNDEFINED),
            ('["1e1000000"]', UNDEFINED),
            ("[1]", UNDEFINED),
            ('["1e999999"]', deny("limit")),
        ],
        "units.parse_bytes": [
            ('["10KB"]', "10000"),
            ('["10kib"]', "10240"),
            ('["1.5GiB"]', "1610612736"),
            ('["0.5"]', "0"),
            ('["1e"]', "1000000000000000000"),
            ('["1e3"]', "1000"),
            ('["3Mi"]', "3145728"),
            ('["foo"]', UNDEFINED),
            ('["1 MB"]', UNDEFINED),
            ('["1000foo"]', UNDEFINED),
            ('["1b"]', UNDEFINED),
            ('["1e9999999"]', UNDEFINED),
            ('["1e999999"]', deny("limit")),
        ],
        "semver.is_valid": [
            ('["1.1.12-rc1+foo"]', "true"),
            ('["0.0.0"]', "true"),
            ('["1.2"]', "false"),
            ('["a.b.c"]', "false"),
            ("[1]", "false"),
            ('["v1.0.0"]', deny("ambiguous")),
            ('["1.0.01"]', deny("ambiguous")),
        ],
        # The order that item 11 of the specification gives.
        "semver.compare": [
            ('["1.0.0-alpha", "1.0.0-alpha.1"]', "-1"),
            ('["1.0.0-alpha.1", "1.0.0-alpha.beta"]', "-1"),
            ('["1.0.0-beta.2", "1.0.0-beta.11"]', "-1"),
            ('["1.0.0-rc.1", "1.0.0"]', "-1"),
            ('["2.1.1", "2.1.0"]', "1"),
            ('["1.2.3+01", "1.2.3+2"]', "0"),
            ('["1.2.3-0", "1.2.3-1"]', "-1"),
            ('["1.2", "1.2.3"]', UNDEFINED),
            ('["1.2.3", 1]', UNDEFINED),
            ('["1.2.3-01", "1.2.3"]', deny("ambiguous")),
        ],
        "uuid.parse": [
            ('["00000000-0000-4000-8000-000000000000"]', '{"variant": "RFC4122", "version": 4}'),
            (
                '["urn:uuid:000003e8-48b9-21ee-b200-325096b39f47"]',
                '{"clocksequence": 12800, "domain": "Person", "id": 1000, "macvariables": "local:unicast",'
                ' "nodeid": "32-50-96-b3-9f-47", "time": 1693566990121469600, "variant": "RFC4122", "version": 2}',
            ),
            ('["6bea8ef2d3d33cd184e09bab06a52ece"]', '{"variant": "RFC4122", "version": 3}'),
            ('["{00000000-0000-4000-8000-000000000000}"]', '{"variant": "RFC4122", "version": 4}'),
            ('["00000000-0000-4000-8000-00000000000g"]', UNDEFINED),
            ("[123]", UNDEFINED),
        ],
    }
)
