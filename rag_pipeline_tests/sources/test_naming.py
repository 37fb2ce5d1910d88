"""Ids and locators of unusual names."""

from __future__ import annotations

import hashlib
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rag_pipeline.sources.naming import from_locator, printable, source_id, to_locator, without_name

# Paths of real file systems: any bytes of any length, often almost identical.
HOSTILE = st.one_of(
    st.binary(max_size=40).map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.text(st.characters(exclude_categories=[]), max_size=40),
    st.text(st.sampled_from("\\\0\n0ux~ab\udc80\u202e　"), max_size=12),
    st.tuples(
        st.sampled_from(["a", "議事録/", "\n"]), st.integers(0, 600), st.sampled_from(["", "b", "\udcff"])
    ).map(lambda parts: parts[0] * parts[1] + parts[2]),
    st.from_regex(r"[a-z]{0,3}~[0-9a-f]{31,33}", fullmatch=True),
)


@given(HOSTILE)
@example("\\udc80")
@example("\udc80")
@example("\ud800")
def test_a_locator_is_storable_and_reversible(path: str) -> None:
    locator = to_locator(path)
    assert from_locator(locator) == path
    assert "\0" not in locator
    assert locator.encode("utf-8").decode("utf-8") == locator


@given(HOSTILE)
@example("議事録　2026-10.md")
@example("🗂️/👩‍💻.md")
def test_an_id_is_printable_and_fits(path: str) -> None:
    identity = source_id("handbook", path)
    assert identity.startswith("handbook:")
    assert len(identity) <= 255
    assert not {unicodedata.category(char) for char in identity} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert identity == source_id("handbook", path)


@given(HOSTILE, HOSTILE)
def test_no_two_paths_share_an_id_or_locator(one: str, other: str) -> None:
    if one != other:
        assert source_id("s", one) != source_id("s", other)
        assert to_locator(one) != to_locator(other)


def test_a_name_cannot_be_forged_to_collide_with_an_id() -> None:
    long = "長い/" * 200
    forged = source_id("s", long).removeprefix("s:")
    assert source_id("s", forged) != source_id("s", long)
    written_out = source_id("s", "a\nb").removeprefix("s:")
    assert source_id("s", written_out) != source_id("s", "a\nb")


def test_paths_that_differ_only_in_the_cut_part_have_different_ids() -> None:
    tail = "/同じ" * 100
    ids = {source_id("s", f"{number}{tail}") for number in range(1000)}
    assert len(ids) == 1000


def test_ids_are_readable() -> None:
    assert source_id("docs", "規程/旅費　規程.md") == "docs:規程/旅費　規程.md"
    assert source_id("docs", "x" * 250) == "docs:" + "x" * 250
    hashed = source_id("docs", "x" * 300 + "/就業規則.md")
    assert re.fullmatch(r"docs:…x+/就業規則\.md~[0-9a-f]{32}", hashed)
    assert len(hashed) == 255
    digest = hashlib.sha256(b"a\nb.md").hexdigest()[:32]
    assert source_id("docs", "a\nb.md") == rf"docs:a\nb.md~{digest}"
    assert printable("\udce3\u202e\x07é") == r"\xe3\u202e\x07é"


def test_composed_and_decomposed_names_are_two_documents() -> None:
    composed, decomposed = (unicodedata.normalize(form, "ガイド.md") for form in ("NFC", "NFD"))
    assert source_id("s", composed) != source_id("s", decomposed)


@pytest.mark.parametrize(
    ("path", "reason", "shown"),
    [
        ("a.md", "a.md: the file is empty", "the file is empty"),
        ("old/a:b.md", "a:b.md: the file is empty", "the file is empty"),
        ("old/a.md", "{id} is a link that leads nowhere", "is a link that leads nowhere"),
        ("a\nb.md", r"a\nb.md: the file is empty", "the file is empty"),
        ("a\nb.md", "{id} is a link that leads nowhere", "is a link that leads nowhere"),
        (unicodedata.normalize("NFD", "ガイド.md"), "ガイド.md: the file is empty", "the file is empty"),
        ("a.md", "b.md: the file is empty", "b.md: the file is empty"),
        ("a.md", "no encoding fits the bytes", "no encoding fits the bytes"),
    ],
)
def test_a_reason_is_shown_without_the_name_that_is_shown_beside_it(path: str, reason: str, shown: str) -> None:
    item = source_id("docs", path)
    assert without_name(reason.format(id=item), item) == shown
