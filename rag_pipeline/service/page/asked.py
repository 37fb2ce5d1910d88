"""The search that the address of a page has: every page on the way from it carries it along, and so leads back to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, tzinfo
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from fastapi import Query

from rag_pipeline.errors import ConfigError
from rag_pipeline.search.results import MAX_LIMIT, Mode
from rag_pipeline.service.problems import ProblemError
from rag_pipeline.stores.filters import Filters

PAGE = 10
"""Hits on a page."""
FACETS = ("source", "source_type", "author", "language", "category", "tag")
_MOST_TAGS = 20
MOST_QUERY_CHARS = 2000
"""One can take 12 bytes in an address, and 20 in the form that sends the address along: requests have a limit in bytes."""

_Name = Annotated[str, Query(max_length=255)]
_Day = Annotated[str, Query(max_length=10)]


class WrongSearchError(Exception):
    """A search that cannot be made, with the page's words for why."""

    def __init__(self, words: str, **values: str) -> None:
        super().__init__(words)
        self.words = words
        self.values = values


@dataclass(frozen=True)
class Asked:
    """A query, its filters, and the page of its hits."""

    query: str = ""
    mode: Mode = "hybrid"
    chosen: Mapping[str, tuple[str, ...]] | None = None
    """The values that were chosen of each facet; of `tag` there can be several."""
    since: str = ""
    until: str = ""
    number: int = 1

    def values(self, facet: str) -> tuple[str, ...]:
        """Return what was chosen of a facet."""
        return (self.chosen or {}).get(facet, ())

    def with_value(self, facet: str, value: str) -> Asked:
        """Return the search with one more filter: of tags, beside those that are chosen."""
        before = self.values(facet) if facet == "tag" else ()
        return replace(self, number=1, chosen={**(self.chosen or {}), facet: (*before, value)})

    def without_value(self, facet: str, value: str) -> Asked:
        """Return the search without a filter."""
        kept = tuple(one for one in self.values(facet) if one != value)
        return replace(self, number=1, chosen={**(self.chosen or {}), facet: kept})

    def on_page(self, number: int) -> Asked:
        """Return the search with another page of its hits."""
        return replace(self, number=number)

    def url(self, path: str = "/", **more: str | int) -> str:
        """Return the address of a page of this search; the search page's own for `/`."""
        named: list[tuple[str, Any]] = list(more.items())
        if self.query:
            named += [("q", self.query), ("mode", "" if self.mode == "hybrid" else self.mode)]
            named += [(facet, value) for facet in FACETS for value in self.values(facet)]
            named += [("from", self.since), ("to", self.until), ("page", self.number if self.number > 1 else "")]
        given = [(name, value) for name, value in named if value != ""]
        return f"{path}?{urlencode(given)}" if given else path

    def filters(self, zone: tzinfo | None) -> Filters:
        """Return what restricts the search; its dates are days in a zone. Raises `WrongSearchError`."""
        since, until = _day(self.since), _day(self.until)
        if since and until and since > until:
            raise WrongSearchError("wrong_days", since=self.since, until=self.until)

        def one(facet: str) -> str | None:
            return next(iter(self.values(facet)), None)

        try:
            return Filters(
                source=one("source"),
                source_type=one("source_type"),
                author=one("author"),
                language=one("language"),
                category=one("category"),
                tags=self.values("tag"),
                from_date=since,
                to_date=until,
                timezone=zone if since or until else None,
            )
        except ConfigError:
            raise WrongSearchError("wrong_search") from None


async def asked(
    q: str = "",
    mode: Mode = "hybrid",
    source: _Name = "",
    source_type: _Name = "",
    author: _Name = "",
    language: _Name = "",
    category: _Name = "",
    tag: Annotated[list[_Name] | None, Query(max_length=_MOST_TAGS)] = None,
    from_: Annotated[str, Query(alias="from", max_length=10)] = "",
    to: _Day = "",
    page: Annotated[int, Query(ge=1, le=MAX_LIMIT // PAGE)] = 1,
) -> Asked:
    """Return the search that an address has."""
    if len(q) > MOST_QUERY_CHARS:
        raise ProblemError(422, f"a query has at most {MOST_QUERY_CHARS} characters here", words="long_query")
    single = {
        "source": source,
        "source_type": source_type,
        "author": author,
        "language": language,
        "category": category,
    }
    chosen = {facet: (value,) for facet, value in single.items() if value}
    tags = tuple(dict.fromkeys(one for one in tag or () if one))
    return Asked(q if q.strip() else "", mode, {**chosen, "tag": tags}, from_, to, page)


def query_of(url: str) -> str:
    """Return the query that the address of a search has."""
    return next(iter(parse_qs(urlsplit(url).query).get("q", ())), "")


def _day(text: str) -> date | None:
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise WrongSearchError("wrong_day", day=text) from None
    if day.isoformat() != text:  # Of a week, or without hyphens: the API refuses them too.
        raise WrongSearchError("wrong_day", day=text)
    return day
