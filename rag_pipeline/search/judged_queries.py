"""Judged queries: queries of which it is known which documents answer them, from files and from the search page.

A file has JSON lines, `{"query": "…", "relevant": ["docs:a.md", …]}` or with a gain each,
`"relevant": {"docs:a.md": 2}`, and optionally `"id"` and `"group"`; or it is one of TREC topics, either `id<tab>query` a
line or `<top>` with `<num>` and `<title>`, with TREC qrels, `id 0 document gain`. A document is named by its `source_id`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard
from uuid import UUID

from rag_pipeline.errors import ConfigError
from rag_pipeline.search.engine import query_text
from rag_pipeline.stores.postgres import documents, search_judgements

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.search_judgements import JudgedDocument

NOTHING_JUDGED = "there are no judged queries: set RAG_QUERIES to a file of them, or judge what searches find on the search page"

NOTHING_ANSWERABLE = (
    "no judged query can be answered, since the documents that they name are not in the index: ingest them, or correct "
    "the source ids in RAG_QUERIES"
)


_TOPIC = re.compile(r"<top>(.*?)(?=<top>|\Z)", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"<num>\s*(?:number:)?\s*([^\s<]+)", re.IGNORECASE)
_FIELDS = "top|num|head|dom|title|desc|smry|narr|con|fac|nat|time|def"
_TITLE = re.compile(
    rf"<title>\s*(?:topic:)?\s*(?!\s|</?(?:{_FIELDS})\b)(.+?)(?=</?(?:{_FIELDS})\b|\Z)", re.DOTALL | re.IGNORECASE
)
_JUDGEMENT = re.compile(r"\s*(\S+)\s+\S+\s+(\S.*?)\s+(-?[0-9]{1,9})\s*")
"""The name of a document can have spaces."""


@dataclass(frozen=True)
class JudgedQuery:
    """A query and the documents that answer it."""

    id: str
    text: str
    relevant: Mapping[str, int]
    """source_id → gain, at least 1 for what answers the query."""
    group: str
    """By which it is summed up: by default the language of the query."""


@dataclass(frozen=True)
class JudgedOfIndex:
    """What is judged of this index."""

    queries: list[JudgedQuery]
    """Those that can be answered, judged by documents that are in the index. Their ids are their keys."""
    unanswerable: int
    """How many queries name only documents that are not in the index, and are left out."""
    keys: frozenset[UUID]
    """The keys of all queries, the unanswerable ones too, each with and without the documents that are not there."""


def key_of(query: JudgedQuery) -> UUID:
    """Return what names a query with its judgements: with another answer, or gain, it is another one.

    What was judged not to answer it is no part of its key, since no measure sees it.
    """
    answers = sorted((document, int(gain)) for document, gain in query.relevant.items() if gain)
    return UUID(bytes=blake2b(json.dumps([query.text, answers]).encode(), digest_size=16).digest())


def anything_judged(pipeline: Pipeline) -> bool:
    """Whether there are judged queries. Reads no file."""
    if pipeline.settings.queries is not None:
        return True
    with pipeline.stores.database.connection() as connection:
        return bool(search_judgements.judged(connection))


def judged_of_index(pipeline: Pipeline) -> JudgedOfIndex:
    """Return the queries of the file `RAG_QUERIES` and those judged on the search page.

    A document that is no longer in the index is no part of what a query is judged by: that it is gone says nothing
    about how well searches find the others. Raises `ConfigError` for what is wrong in the file.
    """
    with pipeline.stores.database.connection() as connection:
        of_people = search_judgements.judged(connection)
    queries = _merged(_of_file(pipeline.settings.queries), of_people)
    with pipeline.stores.database.connection() as connection:
        named = {name for query in queries for name in query.relevant if _is_storable(name)}
        there = documents.existing(connection, sorted(named))
    answerable: dict[UUID, JudgedQuery] = {}
    keys, unanswerable = set(), 0
    for query in queries:
        left = replace(query, relevant={name: gain for name, gain in query.relevant.items() if name in there})
        key = key_of(left)
        keys |= {key_of(query), key}
        if any(left.relevant.values()):
            answerable[key] = replace(left, id=str(key))
        else:
            unanswerable += 1
    return JudgedOfIndex(list(answerable.values()), unanswerable, frozenset(keys))


def _is_storable(name: str) -> bool:
    """Whether PostgreSQL takes a name; JSON can hold others, which no document has."""
    return "\0" not in name and name == name.encode("utf-8", "ignore").decode()


def _of_file(path: Path | None) -> list[JudgedQuery]:
    if path is None:
        return []
    try:
        return read_queries(path)
    except ConfigError as error:
        raise ConfigError(f"RAG_QUERIES: {error}") from None


def _merged(of_file: Iterable[JudgedQuery], of_people: Iterable[JudgedDocument]) -> list[JudgedQuery]:
    """Return the queries of both, once each. Where both judge a document, the file is right."""
    by_text: dict[str, JudgedQuery] = {}
    for query in of_file:
        text = query_text(query.text)
        before = by_text.get(text)
        by_text[text] = replace(
            before or query, text=text, relevant={**(before.relevant if before else {}), **query.relevant}
        )
    for text, relevant in by_query(of_people).items():
        query = by_text.get(text) or JudgedQuery("", text, {}, _language(text))
        by_text[text] = replace(query, relevant={**relevant, **query.relevant})
    return list(by_text.values())


def by_query(judged: Iterable[JudgedDocument]) -> dict[str, dict[str, int]]:
    """Return what people judged as query → source_id → gain, as the files of queries have it."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for one in judged:
        found[query_text(one.query)][one.source_id] = int(one.helpful)
    return found


def read_queries(path: Path, qrels: Path | None = None) -> list[JudgedQuery]:
    """Return the queries of a file. Raises `ConfigError`, a line with its number, for what is wrong in it."""
    found = _from_trec(path, qrels) if qrels is not None else _from_json(path)
    if not found and qrels is not None:
        raise ConfigError(
            f"{path}: {qrels} has a relevant document for none of its topics: name the qrels of these topics"
        )
    if not found:
        raise ConfigError(f"{path}: no queries: write one JSON object a line, with `query` and `relevant`")
    for identity, times in Counter(query.id for query in found).items():
        if times > 1:
            raise ConfigError(f"{path}: the id {identity!r} is there twice: give each query its own")
    return found


def _from_json(path: Path) -> list[JudgedQuery]:
    found: list[JudgedQuery] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError:
            hint = "" if found else "; topics of TREC need --qrels too"
            raise ConfigError(f"{path}, line {number}: not JSON{hint}") from None
        text = fields.get("query") if isinstance(fields, dict) else None
        relevant = fields.get("relevant") if isinstance(fields, dict) else None
        if isinstance(relevant, list) and all(isinstance(document, str) for document in relevant):
            relevant = dict.fromkeys(relevant, 1)
        if not isinstance(text, str) or not text.strip() or not _is_judged(relevant):
            raise ConfigError(
                f'{path}, line {number}: needs "query", a text, and "relevant", a list of source ids or an object '
                "with a gain for each"
            )
        group = fields.get("group") or _language(text)
        found.append(JudgedQuery(str(fields.get("id", number)), text, relevant, str(group)))
    return found


def _is_judged(relevant: object) -> TypeGuard[dict[str, int]]:
    return (
        isinstance(relevant, dict)
        and any(gain for gain in relevant.values())
        and all(
            isinstance(document, str) and isinstance(gain, int) and gain >= 0
            for document, gain in relevant.items()
        )
    )


def _from_trec(path: Path, qrels: Path) -> list[JudgedQuery]:
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for number, line in enumerate(_lines(qrels), 1):
        if not line.strip():
            continue
        judgement = _JUDGEMENT.fullmatch(line)
        if judgement is None:
            raise ConfigError(f"{qrels}, line {number}: write `query 0 document gain`")
        query, document, gain = judgement.groups()
        judged[query][document] = max(0, int(gain))
    found = []
    for identity, text in _topics(path):
        # TREC's own qrels have no zeros in front of 051, and leave queries out for which nothing was judged relevant.
        relevant = judged.get(identity) or judged.get(identity.lstrip("0")) or {}
        if any(relevant.values()):
            found.append(JudgedQuery(identity, text, relevant, _language(text)))
    return found


def _topics(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the id and the query of each topic."""
    lines = _lines(path)
    whole = "\n".join(lines)
    if next((line for line in lines if line.strip()), "").lstrip().lower().startswith("<top>"):
        for topic in _TOPIC.finditer(whole):
            number, title = _NUMBER.search(topic[1]), _TITLE.search(topic[1])
            if number is None or title is None:
                at = whole.count("\n", 0, topic.start()) + 1
                raise ConfigError(f"{path}, line {at}: a <top> needs a <num> and a <title>")
            yield number[1], " ".join(unescape(title[1]).split())
        return
    for at, line in enumerate(lines, 1):
        identity, tab, text = line.strip().partition("\t")
        if not identity:
            continue
        if not tab or not text.strip():
            raise ConfigError(f"{path}, line {at}: write `id<tab>query`, or <top> with <num> and <title>")
        yield identity, text


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").split("\n")  # A text in JSON can hold the other ends of lines.
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read as UTF-8 text: {getattr(error, 'strerror', None) or error}"
        ) from None


def _language(text: str) -> str:
    from rag_pipeline.language.likely import likely_language

    return likely_language(text) or "unknown"
