"""What errors print: one plain line, whatever was dropped or whatever another library said."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.errors import BadInput, Unavailable, one_line, printable

STORE_ERROR = (
    "Generic S3 error: \x1b[31mError performing PUT\x1b[0m\n\n  Caused by:\n\thttp status 507\r\n"
    "\x1b]8;;http://x\x07link\x1b]8;;\x07"
)


def test_a_stores_error_becomes_one_line_without_colours() -> None:
    assert one_line(STORE_ERROR) == "Generic S3 error: Error performing PUT Caused by: http status 507 link"
    assert one_line(ValueError("a\nb")) == "a b"


def test_a_name_shows_what_cannot_be_printed_instead_of_doing_it() -> None:
    assert printable("a\x1b[31mb\n c\u202ed\udcff") == r"a\x1b[31mb\n c\u202ed\udcff"
    assert printable("Été 日本 🎬") == "Été 日本 🎬"
    assert printable("x" * 5000) == "x" * 139 + "…"


@pytest.mark.parametrize("kind", [BadInput, Unavailable])
def test_the_messages_of_our_errors_are_such_lines_and_survive_a_copy(kind: type[Exception]) -> None:
    error = kind(STORE_ERROR)
    assert str(error) == one_line(STORE_ERROR)
    assert str(copy.copy(error)) == str(error)


@given(st.text(), st.integers(1, 50))
def test_lines_and_names_are_printable_and_bounded_for_any_text(text: str, limit: int) -> None:
    for shown in (one_line(text, limit), printable(text, limit)):
        assert shown.isprintable()
        assert len(shown) <= limit
        assert one_line(shown, limit) == " ".join(shown.split())
