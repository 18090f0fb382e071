"""The table of settings: it has every setting, agrees with itself, and the reference says what it says."""

from __future__ import annotations

from typing import Any

import pytest

from capgate.errors import ConfigError
from capgate.limits import RANGES
from capgate.settings.settings import Settings
from capgate.settings.table import BY_NAME, LIMITS, SETTINGS, VARIABLES, Setting

from . import readme_table

ROWS = tuple(BY_NAME.values())


def test_every_field_is_a_row_in_the_same_order() -> None:
    assert tuple(row.name for row in SETTINGS) == Settings.__struct_fields__
    assert [row.name for row in LIMITS] == list(RANGES)


def test_every_row_has_a_variable_of_its_own_but_that_of_all_limits_and_one_that_stands_in_code() -> None:
    assert {f"CAPGATE_{name.upper()}" for name in (*Settings.__struct_fields__, *RANGES)} - set(VARIABLES) == {
        "CAPGATE_LIMITS",
        "CAPGATE_ENFORCE_FROM_ENV",
    }
    assert len(set(VARIABLES)) == len(VARIABLES) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_default_passes_the_check(row: Setting) -> None:
    settings = Settings()
    row.check(row.name, getattr(settings.limits if row.name in RANGES else settings, row.name))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize(
    "value", [b"x", "\0", float("nan"), pytest.param(object(), id="object"), ["a"], -1, ""], ids=repr
)
def test_what_no_setting_may_be_is_an_error_that_names_it(row: Setting, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        row.check(row.name, value)
    assert caught.value.setting == row.name
    assert caught.value.valid


def test_the_reference_says_what_the_table_says() -> None:
    text = readme_table.PAGE.read_text(encoding="utf-8")
    assert readme_table.written(text) == readme_table.made(), "python -m tests.settings.readme_table --write"
