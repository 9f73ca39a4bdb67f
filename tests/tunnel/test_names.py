"""Names of files: usual names are kept, and names that could harm a folder or a terminal are refused."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import LocalTunnelError
from tunnel.services.names import (
    MAX_FILE_NAME_BYTES,
    checked_file_name,
    checked_name,
    file_name,
    is_name,
    safe_name,
)


@pytest.mark.parametrize(
    "name",
    [
        "日本語.txt",
        "中文字.txt",
        "my résumé (1).txt",
        ".bashrc",
        "-rf",
        "a:b*?\\c",
        "👩‍👧.png",
        "n" * 251 + ".pdf",
        "می‌خواهم",
    ],
    ids=ascii,
)
def test_names_that_people_give_stay(name: str) -> None:
    assert checked_file_name(name) == safe_name(name) == file_name(name.encode()) == name


def test_the_two_ways_to_write_a_letter_are_one_name() -> None:
    composed, decomposed = (unicodedata.normalize(form, "résumé.pdf") for form in ("NFC", "NFD"))
    assert checked_file_name(decomposed) == checked_file_name(composed) == composed
    assert file_name(decomposed.encode()) is None


@pytest.mark.parametrize(
    ("name", "why", "instead"),
    [
        ("", "empty", "_"),
        ("..", "folder", "_."),
        ("a/b", "'/'", "a_b"),
        ("a\nb.txt", r"U\+000A", "a_b.txt"),
        ("\x1b[31mred", r"U\+001B", "_[31mred"),
        ("\x9b31m", r"U\+009B", "_31m"),
        ("gpj.\u202eexe", r"U\+202E", "gpj._exe"),
        ("a\u2028b", r"U\+2028", "a_b"),
        ("caf\udce9.txt", "not UTF-8", "caf_.txt"),
        (".x.PART", "unfinished", "_x.PART"),
        ("é" * 200 + ".tar.gz", "407 bytes", "é" * 126 + ".gz"),
    ],
    ids=ascii,
)
def test_other_names_are_refused_with_a_name_that_would_do(name: str, why: str, instead: str) -> None:
    with pytest.raises(LocalTunnelError, match=f"invalid file name.*{why}") as caught:
        checked_file_name(name)
    assert repr(instead) in str(caught.value)
    assert str(caught.value).isprintable()
    assert file_name(name.encode("utf-8", "surrogateescape")) is None


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_text_has_a_name_near_it(text: str) -> None:
    near = safe_name(text)
    assert checked_file_name(near) == near == file_name(near.encode())
    assert near == Path(near).name
    try:
        name = checked_file_name(text)
    except LocalTunnelError:
        return
    assert safe_name(text) == name == unicodedata.normalize("NFC", text)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_name_or_none(raw: bytes) -> None:
    name = file_name(raw)
    if name is not None:
        assert name.encode() == raw
        assert 1 <= len(raw) <= MAX_FILE_NAME_BYTES
        assert checked_file_name(name) == name
        assert not {"/", "\0", "\x1b", "\n"} & set(name)


@pytest.mark.parametrize("name", ["", "\ud800", "a\udfff", "\0", ".x", "a b", "é", "x" * 121], ids=ascii)
def test_services_have_plain_names(name: str) -> None:
    with pytest.raises(LocalTunnelError, match="invalid name"):
        checked_name(name)
    assert not is_name(name.encode("utf-8", "surrogatepass"))
