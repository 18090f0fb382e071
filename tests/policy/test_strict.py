"""The one reader of strict JSON: what it rejects says what it is, and numbers may be made of their text."""

from __future__ import annotations

import json

import pytest

from capgate.policy.strict import JsonMistake, StrictDecoder


@pytest.mark.parametrize(
    ("text", "key"),
    [('{"a": 1, "a": 1}', "a"), ('[{"b": {"c": 0, "d": [], "c": 1}}]', "c"), ('{"": 1, "\\u0000": 2, "": 3}', "")],
)
def test_a_key_that_stands_twice(text: str, key: str) -> None:
    with pytest.raises(JsonMistake) as caught:
        StrictDecoder().decode(text)
    assert (caught.value.key, caught.value.word) == (key, None)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_word_in_place_of_a_number(word: str) -> None:
    with pytest.raises(JsonMistake) as caught:
        StrictDecoder().decode(f'{{"a": [{word}]}}')
    assert (caught.value.key, caught.value.word) == (None, word)


@pytest.mark.parametrize("text", ["\ufeff{}", "", "{} {}", "{'a': 1}", '{"a": 1,}', "01", "1_0"])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        StrictDecoder().decode(text)


def test_numbers_are_made_of_their_text() -> None:
    text = "[1, 1.0, 1e400, -0]"
    assert StrictDecoder(str, str).decode(text) == ["1", "1.0", "1e400", "-0"]
    assert StrictDecoder(fraction=str).decode(text) == [1, "1.0", "1e400", 0]


def test_values_of_a_text_one_by_one() -> None:
    value, end = StrictDecoder().raw_decode('{"a": [true]} rest')
    assert (value, end) == ({"a": [True]}, 13)
