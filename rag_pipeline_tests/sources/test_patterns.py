"""Which files the patterns of a source match."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.sources.patterns import Patterns


def matches(patterns: Patterns, path: str) -> bool:
    *folders, name = path.split("/")
    state = patterns.start
    for folder in folders:
        state = patterns.enter(state, folder)
    return patterns.match(state, name)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (
            "**/*.md",
            ["a.md", "x/a.md", "x/y/z/a.md"],
            ["a.MD", "a.md.txt", ".a.md", ".git/a.md", "x/.y/a.md"],
        ),
        ("*.md", ["a.md"], ["x/a.md"]),
        ("docs/*.md", ["docs/a.md"], ["a.md", "docs/x/a.md", "other/docs/a.md"]),
        ("docs/**/*.md", ["docs/a.md", "docs/x/y/a.md"], ["a.md"]),
        ("docs/**", ["docs/a", "docs/x/y"], ["docs", "a"]),
        ("docs/", ["docs/a", "docs/x/y"], ["docs", "a"]),
        ("**", ["a", "x/y/z"], [".a", ".x/y"]),
        ("**/x/**/a", ["x/a", "q/x/a", "q/x/r/x/a", "x/x/a"], ["a", "q/a"]),
        ("**/.notes/*.md", [".notes/a.md", "x/.notes/a.md"], [".notes/.a.md", ".other/a.md"]),
        ("**/.*", [".a", "x/.a"], ["a", ".x/.a"]),
        ("**/*.docx", ["a.docx", "~a.docx", "$a.docx", "a~$.docx"], ["~$a.docx", "x/~$a.docx"]),
        ("~$*", ["~$a.docx"], ["a.docx"]),
        ("第?章/[ab].md", ["第1章/a.md", "第二章/b.md"], ["第12章/a.md", "第1章/c.md"]),
        ("./a[!0-9].md", ["ax.md"], ["a1.md"]),
        ("a[[]1].md", ["a[1].md"], ["a1.md"]),
    ],
)
def test_patterns_match_as_in_a_shell(pattern: str, yes: list[str], no: list[str]) -> None:
    patterns = Patterns([pattern], hidden=False)
    assert [path for path in yes + no if matches(patterns, path)] == yes


def test_wildcards_in_exclusions_match_hidden_names() -> None:
    patterns = Patterns(["**/*.tmp", "build/"], hidden=True)
    assert matches(patterns, ".x/.a.tmp")
    assert matches(patterns, "build/.x/a")


def test_folders_without_possible_matches_are_known_beforehand() -> None:
    patterns = Patterns(["docs/ja/**/*.md", "*.txt"], hidden=False)
    docs = patterns.enter(patterns.start, "docs")
    assert docs
    assert patterns.enter(docs, "ja")
    assert not patterns.enter(docs, "en")
    assert not patterns.enter(patterns.start, "other")
    assert not patterns.enter(patterns.enter(docs, "ja"), ".git")


def test_decomposed_names_are_matched() -> None:
    name = unicodedata.normalize("NFD", "ガイド.md")
    assert name != "ガイド.md"
    assert matches(Patterns(["**/ガイド.md"], hidden=False), f"{name.removesuffix('.md')}/{name}")


NAMES = st.text(st.sampled_from("ab.あ-"), min_size=1, max_size=3).filter(lambda name: name.strip("."))


@given(st.lists(NAMES, min_size=1, max_size=5))
def test_an_exact_path_matches_itself_and_a_double_star_everything_not_hidden(parts: list[str]) -> None:
    path = "/".join(parts)
    assert matches(Patterns([path], hidden=False), path)
    assert matches(Patterns(["**/" + parts[-1]], hidden=True), path)
    assert matches(Patterns(["**"], hidden=False), path) == (not any(part.startswith(".") for part in parts))
