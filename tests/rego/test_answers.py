"""What an answer of OPA's ABI means: only the exact allow allows, whatever else the module gives."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.errors import AbiError
from capgate.limits import Limits
from capgate.model import Allow, Entrypoint
from capgate.runtime.abi.opa.answer import AnswerReader

from ..support.rego_guests import liar
from ..support.tools import examples
from .outcomes import LIMITS, opened, outcome

DECISION = Entrypoint("p")
DENIALS = Entrypoint("p", "denials")
LONG = Limits().output_bytes

#: The answer, what it is as a decision, and as denials.
ANSWERS = [
    (b'[{"result":true}]', "allow", "abi result_type"),
    (b' [ {"result" : true } ] ', "allow", "abi result_type"),
    (b'[{"result":{"allow":true}}]', "allow", "abi result_type"),
    (b'[{"result":{"allow":true,"reason":"is the owner"}}]', "allow", "abi result_type"),
    (b'[{"result":false}]', "deny not_in_allowlist", "abi result_type"),
    (b'[{"result":{"allow":false}}]', "deny not_in_allowlist", "abi result_type"),
    (b'[{"result":{"allow":false,"reason":"closed"}}]', "deny closed", "abi result_type"),
    (b'[{"result":{"reason":"\\u00e9\\ud834\\udd1e","allow":false}}]', "deny \u00e9\U0001d11e", "abi result_type"),
    ('[{"result":{"allow":false,"reason":"\u00e9"}}]'.encode(), "deny \u00e9", "abi result_type"),
    (b'[{"result":[]}]', "abi result_type", "allow"),
    (b'[{"result":["b","a","c"]}]', "abi result_type", "deny a"),
    (b'[{"result":["a","a"]}]', "abi result_type", "deny a"),
    (b'[{"result":[""]}]', "abi result_type", "deny "),
    (b'[{"result":["\\ud800"]}]', "abi result_type", "abi reason_not_unicode"),
    (b'[{"result":["a",1]}]', "abi result_type", "abi result_type"),
    (b'[{"result":[["a"]]}]', "abi result_type", "abi result_type"),
    (b'[{"result":{"a":true}}]', "abi result_type", "abi result_type"),
    (b'[{"result":[null]}]', "abi result_type", "abi result_type"),
    # M6: only the value itself
    (b'[{"result":{"allow":1}}]', "abi result_type", "abi result_type"),
    (b'[{"result":{"allow":"true"}}]', "abi result_type", "abi result_type"),
    (b'[{"result":{"allow":null}}]', "abi result_type", "abi result_type"),
    (b'[{"result":{"allow":[true]}}]', "abi result_type", "abi result_type"),
    (b'[{"result":{"allow":{"allow":true}}}]', "abi result_type", "abi result_type"),
    (b'[{"result":{"allow":true,"deny":true}}]', "abi result_type", "abi result_type"),
    (b'[{"result":{"allow":true,"reason":null}}]', "abi result_type", "abi result_type"),
    (b'[{"result":{"allow":false,"reason":1}}]', "abi result_type", "abi result_type"),
    (b'[{"result":{"Allow":true}}]', "abi result_type", "abi result_type"),
    (b'[{"result":{}}]', "abi result_type", "abi result_type"),
    (b'[{"result":1}]', "abi result_type", "abi result_type"),
    (b'[{"result":1.0}]', "abi result_type", "abi result_type"),
    (b'[{"result":"true"}]', "abi result_type", "abi result_type"),
    (b'[{"result":"allow"}]', "abi result_type", "abi result_type"),
    (b'[{"result":null}]', "abi result_type", "abi result_type"),
    (b'[{"result":[true]}]', "abi result_type", "abi result_type"),
    # undefined, several, none of them
    (b"[]", "deny malformed_result", "deny malformed_result"),
    (b'[{"result":true},{"result":true}]', "abi result_count", "abi result_count"),
    (b'[{"result":[]},{"result":[]}]', "abi result_count", "abi result_count"),
    (b'[[{"result":true}]]', "abi result_keys", "abi result_keys"),
    (b"[true]", "abi result_keys", "abi result_keys"),
    (b"[{}]", "abi result_keys", "abi result_keys"),
    (b'[{"result":true,"other":1}]', "abi result_keys", "abi result_keys"),
    (b'[{"results":true}]', "abi result_keys", "abi result_keys"),
    (b'{"result":true}', "abi result_count", "abi result_count"),
    (b"true", "abi result_count", "abi result_count"),
    (b"null", "abi result_count", "abi result_count"),
    # M5: nothing but strict JSON
    (b"", "abi result_not_json", "abi result_not_json"),
    (b'[{"result":false,"result":true}]', "abi result_not_json", "abi result_not_json"),
    (b'[{"result":{"allow":false,"allow":true}}]', "abi result_not_json", "abi result_not_json"),
    (b'[{"result":true}]x', "abi result_not_json", "abi result_not_json"),
    (b'[{"result":true}][]', "abi result_not_json", "abi result_not_json"),
    (b'[{"result":true}', "abi result_not_json", "abi result_not_json"),
    (b'[{"result":NaN}]', "abi result_not_json", "abi result_not_json"),
    (b'[{"result":tRue}]', "abi result_not_json", "abi result_not_json"),
    (b"[{'result':true}]", "abi result_not_json", "abi result_not_json"),
    (b'\xef\xbb\xbf[{"result":true}]', "abi result_not_json", "abi result_not_json"),
    (b'[{"result":["\xff"]}]', "abi result_not_json", "abi result_not_json"),
    (b'[{"result":{"allow":false,"reason":"\xc0\x80"}}]', "abi result_not_json", "abi result_not_json"),
    (b'[{"result":{"allow":false,"reason":"\xed\xa0\x80"}}]', "abi result_not_json", "abi result_not_json"),
    (b"[" * 3_000, "abi result_not_json", "abi result_not_json"),
    # M4: sizes
    (b'[{"result":{"allow":false,"reason":"%s"}}]' % (b"a" * LONG), "deny " + "a" * LONG, "abi result_type"),
    (b'[{"result":{"allow":false,"reason":"%s"}}]' % (b"a" * (LONG + 1)), "abi reason_too_long", "abi result_type"),
    (b'[{"result":["%s"]}]' % (b"a" * (LONG + 1)), "abi result_type", "abi reason_too_long"),
    (b'[{"result":true}]' + b" " * 8 * LONG, "allow", "abi result_type"),
    (b'[{"result":true}]' + b" " * 9 * LONG, "abi text_unterminated", "abi text_unterminated"),
]


@pytest.mark.parametrize(("answer", "decision", "denials"), ANSWERS, ids=[repr(row[0][:60]) for row in ANSWERS])
def test_what_an_answer_means(engine_name: str, answer: bytes, decision: str, denials: str) -> None:
    module = liar(answer + b"\0")
    for entrypoint, expected in ((DECISION, decision), (DENIALS, denials)):
        interpreter = opened(engine_name, module, entrypoint)
        assert outcome(interpreter) == expected
        if not expected.startswith("abi"):
            assert outcome(interpreter) == expected  # and the second time, from what is remembered


def test_only_these_shapes_allow() -> None:
    """A count of the table above, so that none slips in."""
    assert sum(decision == "allow" for _, decision, _ in ANSWERS) == 5
    assert sum(denials == "allow" for _, _, denials in ANSWERS) == 1


def test_an_answer_is_read_up_to_the_zero_only(engine_name: str) -> None:
    interpreter = opened(engine_name, liar(b'[{"result":false}]\0[{"result":true}]\0'))
    assert outcome(interpreter) == "deny not_in_allowlist"


def test_the_order_of_denials_does_not_matter(engine_name: str) -> None:
    for answer in (b'[{"result":["z","\\u00e9","Z"]}]\0', b'[{"result":["\\u00e9","Z","z"]}]\0'):
        assert outcome(opened(engine_name, liar(answer), DENIALS, LIMITS)) == "deny Z"


@pytest.mark.sampled
@settings(max_examples=examples(300, quick=100), deadline=None)
@given(
    st.recursive(
        st.sampled_from([None, True, False, 0, 1, "", "allow", "true", "reason", 1.5]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["result", "allow", "reason", "deny", ""]), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.booleans(),
    st.sampled_from(["decision", "denials"]),
)
def test_whatever_the_answer_is(value: Any, wrapped: bool, result: Literal["decision", "denials"]) -> None:
    """M6: against a second judge, which shares no code with the first."""
    text = json.dumps([{"result": value}] if wrapped else value).encode()
    answers = AnswerReader(Entrypoint("p", result), LONG)
    try:
        found: object = answers.read(text)
    except AbiError:
        found = None
    assert (type(found) is Allow) == allows(json.loads(text), result)


def allows(whole: Any, result: str) -> bool:
    """Whether this is one of the shapes that allow."""
    listed: list[str] = ["[]"] if result == "denials" else ["true", '{"allow": true}']
    for shape in listed:
        if repr(whole) == repr([{"result": json.loads(shape)}]):
            return True
    reasons = ["", "allow", "true", "reason"] if result == "decision" else []
    shapes = [{"allow": True, "reason": text} for text in reasons] + [
        {"reason": text, "allow": True} for text in reasons
    ]
    return any(repr(whole) == repr([{"result": shape}]) for shape in shapes)
