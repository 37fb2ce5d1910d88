"""How much the words of a query are worth beside its meaning.

Where query and documents are in one language, dense and lexical scores add up well, each with the same weight. An
English question over Japanese documents is another matter: the few words that it shares with them (those of code, of
commands, a stray `the`) say nothing, and at full weight they push out what the dense leg rightly found. But an
identifier is worth everything in any language. So two things are measured, and the larger one counts:

- the share of the dense leg's best candidates that are written as the query is: in Chinese, Japanese or Korean, or
  in another script. The script, not the language: it can be told from a single word.
- how much of the query a candidate holds in words: the idf of the query's words that one of the best lexical
  candidates has, over the idf of all its words, the largest such share, squared. `pg_stat_activity` over Japanese
  documents has 1; an English question has about 0.16.

nDCG@10 over 458 Japanese manual pages, of their Japanese summaries, their English summaries, and their names, before
and after reranking by sentence vectors (differences under 0.02 mean little):

    dense alone          .762 .801   .706 .731   .919 .946
    both, equal weight   .804 .822   .670 .718   .966 .964
    both, this weight    .804 .822   .710 .737   .966 .964
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rag_pipeline.stores.postgres.search_queries import FoundChunk

LOOKED_AT = 20
"""The dense leg's best candidates, whose script is compared."""
READ = 5
"""The lexical leg's best candidates, whose words are compared; the one that holds most of a query is among them."""

_EAST_ASIAN = re.compile(r"[\u3041-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9d]")
_EAST_ASIAN_LANGUAGES = {"ja", "zh", "ko"}


def lexical_weight(
    query: str, idf: Mapping[str, float], dense: Sequence[FoundChunk], sparse: Sequence[FoundChunk]
) -> float:
    """The weight of the lexical leg's z-scores, 0 to 1; `idf` of the query's words, each leg's candidates best first."""
    share = same_script(query, [chunk.language for chunk in dense[:LOOKED_AT]])
    if share == 1 or not sparse:
        return share
    return max(
        share, coverage(idf, [f"{chunk.section_title or ''}\n{chunk.content}" for chunk in sparse[:READ]]) ** 2
    )


def same_script(query: str, languages: Sequence[str | None]) -> float:
    """The share of these documents' languages that are written as the query is; 0 of none."""
    east_asian = _EAST_ASIAN.search(query) is not None
    same = [(language in _EAST_ASIAN_LANGUAGES) == east_asian for language in languages]
    return sum(same) / len(same) if same else 0.0


def coverage(idf: Mapping[str, float], texts: Sequence[str]) -> float:
    """The largest share of the words' idf that one of the texts holds; 0 without words or texts."""
    from rag_pipeline.language.words import words

    total = sum(idf.values())
    if not total:
        return 0.0
    held = [sum(idf[word] for word in idf.keys() & set(words(text))) for text in texts]
    return max(held, default=0.0) / total
