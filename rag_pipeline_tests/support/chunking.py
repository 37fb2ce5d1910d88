"""Markdown documents for the tests of chunking, and a simple tokenizer."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from rag_pipeline.documents.chunking.chunk_draft import ChunkDraft

_TOKEN = re.compile(r"[A-Za-z0-9]+|[^\sA-Za-z0-9]")


def count_tokens(text: str) -> int:
    """Count runs of letters and digits, and every other character except white space: additive between words."""
    return len(_TOKEN.findall(text))


_words = st.sampled_from(
    ["alpha", "beta", "gamma", "delta", "x1", "検索", "文書", "データ", "する", "こと", "です"]
)
sentences = st.one_of(
    st.lists(_words, min_size=1, max_size=8).map(lambda words: " ".join(words).capitalize() + "."),
    st.lists(_words, min_size=1, max_size=8).map(lambda words: "".join(words) + "。"),
)
paragraphs = st.lists(sentences, min_size=1, max_size=6).map(
    lambda parts: "".join(part if part.endswith("。") else part + " " for part in parts).strip()
)
_code = st.lists(_words.map(lambda word: f"call({word})"), min_size=1, max_size=12).map(
    lambda lines: "```py\n" + "\n".join(lines) + "\n```"
)
_tables = st.lists(st.tuples(_words, _words), min_size=1, max_size=10).map(
    lambda rows: "| a | b |\n|---|---|\n" + "\n".join(f"| {left} | {right} |" for left, right in rows)
)
_lists = st.lists(sentences, min_size=1, max_size=8).map(lambda items: "\n".join(f"- {item}" for item in items))
_headings = st.tuples(st.integers(1, 4), _words, st.integers(0, 99)).map(lambda h: f"{'#' * h[0]} {h[1]} {h[2]}")
blocks = st.one_of(paragraphs, paragraphs, _headings, _code, _tables, _lists)
documents = st.lists(blocks, max_size=14).map("\n\n".join)
soups = st.text(st.sampled_from("#-=*>`~|:[]()<!1. \t\n　あ漢ア。、a\u0301\U0001f468\u200d\ufe0f"), max_size=300)
"""Text of characters with a meaning in Markdown, sentences or grapheme clusters."""


def assert_slices(source: str, chunks: list[ChunkDraft]) -> None:
    """Assert that the chunks are the source, in order, without white space; only frames are repeated."""
    rest = source.lstrip()
    for chunk in chunks:
        for body in _without_frames(chunk.content):
            if body.strip() and rest.startswith(body.lstrip()):
                break
        else:
            raise AssertionError(f"{chunk.content!r} is not what comes next: {rest[:80]!r}")
        rest = rest[len(body.lstrip()) :].lstrip()
    assert rest == ""


def _without_frames(content: str) -> list[str]:
    """Return the content as it is, and without a repeated fence or header, and without a closing fence."""
    lines = content.split("\n")
    ends = [lines]
    if re.fullmatch(r"[>\s]*(`{3,}|~{3,})", lines[-1]):
        ends.append(lines[:-1])
    return ["\n".join(end[start:]) for start in (0, 1, 2) for end in ends]
