from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.domain.sheet import FORMULA, harmless


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Mug", "Mug"),
        ("=1+1", "'=1+1"),
        ("\u200b=1+1", "'\u200b=1+1"),
        ("  \x0b@SUM(A1)", "'  \x0b@SUM(A1)"),
        ('Mug;=HYPERLINK("http://x")', 'Mug;\'=HYPERLINK("http://x")'),
        ("a\t -1", "a\t '-1"),
        ("a; b - c", "a; b - c"),
        ("", ""),
    ],
)
def test_no_cell_begins_a_formula_wherever_cells_are_divided(text: str, written: str) -> None:
    assert harmless(text) == written


@given(st.text(alphabet=st.sampled_from("=+-@;\t ab\u200b\n,\"'"), max_size=20))
def test_no_part_of_any_text_begins_a_formula(text: str) -> None:
    parts = harmless(text).replace("\t", ";").split(";")

    assert not [part for part in parts if part.strip().startswith(tuple(set(FORMULA) - {"\t", "\r", "\n"}))]
