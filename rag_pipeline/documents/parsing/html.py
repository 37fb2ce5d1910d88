"""Reader for HTML: the main content as Markdown, without boilerplate.

Navigation, page headers and footers, forms and hidden elements repeat on every page of a site or are not meant for
readers. In an index they would be noise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

from rag_pipeline.documents.cleaning import clean_tags
from rag_pipeline.documents.parsing.dates import parse_date
from rag_pipeline.documents.parsing.extracted_document import ExtractedDocument
from rag_pipeline.errors import DocumentError

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag
    from markdownify import MarkdownConverter

_MAX_DEPTH = 150
"""Nesting depth of elements beyond which conversion would hit Python's recursion limit."""

_METADATA = frozenset({"title", "meta", "link", "base", "script", "style", "noscript", "template"})
_NEVER_TEXT = frozenset(
    {"head", "script", "style", "noscript", "template", "svg", "canvas", "iframe", "object", "video", "audio"}
    | {"button", "select", "rt", "rp"}
)
_BOXES = frozenset(
    {"button", "select", "input", "textarea", "img", "svg", "canvas", "iframe", "object", "video", "audio"}
)
"""What is seen between the words around it, even if it has no text itself."""
_BOILERPLATE = frozenset({"nav", "header", "footer", "aside", "form", "dialog"})
_BOILERPLATE_ROLES = frozenset({"navigation", "banner", "contentinfo", "search", "complementary"})
_INVISIBLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_TABLE_PARTS = ["table", "caption", "thead", "tbody", "tfoot", "tr", "td", "th"]
_HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]
_MAX_COLSPAN = 20
_MAX_COLUMNS = 1000
"""Columns of a row beyond which its cells are not widened: each column costs time in every row."""
_MAX_TAGS = 1_000_000
_NUMBER = "data-number"
"""An attribute that items of numbered lists are given."""

_CODE_LANGUAGE = re.compile(r"(?:^|\s)(?:language|lang|highlight-source|highlight|brush:)[- ]?([\w+#-]+)")
_LINE_START = re.compile(r"^(?=.)", re.MULTILINE)
_BACKTICKS = re.compile(r"`{3,}")

_HEAD = 64 * 1024
"""Characters in which a page states its date."""
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_DATED_TAG = re.compile(r"<(?:meta|time)\b[^<>]{1,2000}>", re.IGNORECASE)
_JSON_LD_DATE = re.compile(r'"datePublished"\s*:\s*"([^"\n]{4,60})"')
_DATE_NAMES = (
    "article:published_time",
    "datepublished",
    "dc.date.created",
    "dcterms.created",
    "dc.date",
    "dcterms.date",
    "dc.date.issued",
    "pubdate",
    "publishdate",
    "date",
)


def read_html(text: str) -> ExtractedDocument:
    """Extract the main content of a page as Markdown, and the metadata in its head.

    A page that is nested too deeply to convert is read as plain text, with a warning.
    """
    soup = _parse(text)
    html = soup.html
    extracted = ExtractedDocument(
        markdown="",
        title=_title(soup),
        author=_meta(soup, "author", "article:author", "dc.creator"),
        language=str(html.get("lang") or html.get("xml:lang") or "") if html else None,
        category=_meta(soup, "article:section", "category"),
        tags=clean_tags(_meta(soup, "keywords") or ""),
        stated_date=_stated_date(text[:_HEAD]),
    )
    content, warnings = _content(soup)  # last, because it takes the page apart
    return replace(extracted, markdown=content, warnings=warnings)


def published_at(head: str) -> datetime | None:
    """Return the date of publication in the first characters of a page: from a meta tag, JSON-LD or `time`."""
    return next((date for date in map(parse_date, _dates(head)) if date), None)


def _stated_date(head: str) -> str | None:
    """Return the date of publication as it is written: the first that can be read, or else the first."""
    texts = list(_dates(head))
    return next((text for text in texts if parse_date(text)), texts[0] if texts else None)


def _dates(head: str) -> Iterator[str]:
    """Yield the texts in the first characters of a page that may be its date, the likeliest first."""
    head = _COMMENT.sub("", head)
    # Only the relevant tags are parsed, because a scan does this for every page.
    tags = _parse("".join(_DATED_TAG.findall(head)))
    texts = [_meta(tags, name) for name in _DATE_NAMES[:2]]
    texts += _JSON_LD_DATE.findall(head)[:1]
    texts += [_meta(tags, name) for name in _DATE_NAMES[2:]]
    times = tags.find_all("time", datetime=True)
    published = [time for time in times if time.has_attr("pubdate") or time.get("itemprop") == "datePublished"]
    texts += [str(time["datetime"]) for time in published[:1]]
    yield from filter(None, texts)
    # Any other time is the page's date if it is one: it can also be a duration.
    yield from (str(time["datetime"]) for time in times[:1] if not published and parse_date(str(time["datetime"])))


def markdown_of(html: str) -> str:
    """Return the HTML of a trusted converter as Markdown, with nothing left out."""
    soup = _parse(html)
    return _convert(soup) if _depth(soup) <= _MAX_DEPTH else soup.get_text("\n")


def _parse(text: str) -> BeautifulSoup:
    from bs4 import BeautifulSoup, ParserRejectedMarkup

    if text.count("<") > _MAX_TAGS:
        raise DocumentError(f"the page has more than {_MAX_TAGS:,} tags: split it")
    # An XML declaration means nothing in decoded text, and BeautifulSoup warns about it.
    text = re.sub(r"\A\s*<\?xml[^>]*>", "", text)
    try:
        return BeautifulSoup(text + "\n", "lxml")
    except ParserRejectedMarkup:
        raise DocumentError("broken HTML: save it again") from None


def _content(soup: BeautifulSoup) -> tuple[str, tuple[str, ...]]:
    _empty_head(soup)
    if _depth(soup) <= _MAX_DEPTH:
        for tag in soup.find_all(_is_never_shown):
            if not tag.decomposed:
                _replace(tag)
        whole = soup.body or soup
        _drop_boilerplate(whole)
        try:
            return _convert(_main(whole)), ()
        except RecursionError:
            pass
    return soup.get_text("\n"), ("the page is nested too deeply: it was read without headings, lists and tables",)


def _empty_head(soup: BeautifulSoup) -> None:
    """Move elements that libxml2 left in the head into the body.

    A page may omit `<body>`, and libxml2 does not take the elements that are new in HTML 5, such as `main`, for its
    start.
    """
    strays = [tag for tag in soup.select("head > *") if tag.name not in _METADATA]
    body = soup.body or soup.new_tag("body")
    for tag in reversed(strays):
        body.insert(0, tag)
    if strays and soup.html and not soup.body:
        soup.html.append(body)


def _depth(soup: BeautifulSoup) -> int:
    depths = {id(soup): 0}
    deepest = 0
    for element in soup.descendants:
        depth = depths[id(element.parent)] + 1
        depths[id(element)] = depth
        deepest = max(deepest, depth)
    return deepest


def _is_never_shown(tag: Tag) -> bool:
    if tag.name in _NEVER_TEXT:
        return True
    if not tag.attrs:
        return False
    return (
        _is_permalink(tag)
        or tag.has_attr("hidden")
        or tag.get("aria-hidden") == "true"
        or bool(_INVISIBLE.search(str(tag.get("style") or "")))
    )


def _replace(tag: Tag, text: str = "") -> None:
    """Put a text in the place of an element. Western words that it stood between stay apart, as they look."""
    if tag.name in _BOXES:
        before, after = _neighbours(tag)
        if text:
            text = f"{' ' * _joins(before, text)}{text}{' ' * _joins(text, after)}"
        else:
            text = " " * _joins(before, after)
    if text:
        tag.insert_before(text)
    tag.decompose()


def _neighbours(tag: Tag) -> tuple[str, str]:
    """Return the texts beside an element; "" where there is none."""
    from bs4 import Tag

    before, after = tag.previous_element, tag.next_sibling
    while isinstance(after, Tag):
        after = next(after.children, None)
    return ("" if before is None or isinstance(before, Tag) else str(before)), str(after or "")


def _joins(before: str, after: str) -> bool:
    """Return whether two texts would become one word."""
    ends = before[-1:] + after[:1]
    return len(ends) == 2 and ends.isascii() and ends.isalnum()


def _is_permalink(tag: Tag) -> bool:
    """Return whether this is the mark by which a heading links to itself, which is not part of its text."""
    return (
        tag.name == "a" and tag.get_text().strip() in ("¶", "#", "🔗", "§") and str(tag.get("href", ""))[:1] == "#"
    )


def _is_boilerplate(tag: Tag) -> bool:
    return tag.name in _BOILERPLATE or (bool(tag.attrs) and tag.get("role") in _BOILERPLATE_ROLES)


def _is_main(tag: Tag) -> bool:
    return tag.name == "main" or (bool(tag.attrs) and tag.get("role") == "main")


def _drop_boilerplate(whole: Tag) -> None:
    size = _size(whole)
    for tag in whole.find_all(_is_boilerplate):
        if tag.decomposed or (tag.name == "header" and tag.find_parent(["main", "article"])):
            continue
        # Some sites wrap the whole page in one form, or the article in a header.
        if _size(tag) * 2 <= size:
            tag.decompose()
    for tag in whole.find_all(["input", "textarea"]):
        _replace(tag)
    for table in whole.find_all("table"):
        if not table.decomposed and _is_menu(table):
            table.decompose()


def _main(whole: Tag) -> Tag:
    for is_main in (_is_main, "article"):
        found = whole.find_all(is_main)
        if len(found) == 1 and _size(found[0]) * 10 >= _size(whole):
            return found[0]
    return whole


def _is_menu(table: Tag) -> bool:
    """Return whether a table is a bar of links: one row or one column that holds almost only links."""
    links = table.find_all("a", href=True)
    if len(links) < 4 or table.find("th"):
        return False
    rows = [len(row.find_all(["td", "th"])) for row in table.find_all("tr")]
    if len(rows) > 1 and max(rows) > 1:
        return False
    return sum(map(_size, links)) * 10 >= _size(table) * 9


def _is_layout(table: Tag) -> bool:
    """Return whether a table lays out a page instead of holding data."""
    if table.get("role") in ("presentation", "none") or table.find(["table", *_HEADINGS]):
        return True
    return all(len(row.find_all(["td", "th"])) <= 1 for row in table.find_all("tr"))


def _convert(element: Tag) -> str:
    layouts = [table for table in element.find_all("table") if _is_layout(table)]
    inside = set(map(id, layouts))
    for part in element.find_all(_TABLE_PARTS[1:]):
        if id(part.find_parent("table")) in inside:
            part.name = "div"
    for table in layouts:  # renamed last, because each part looks for its table
        table.name = "div"
    for cell in element.find_all(["td", "th"], colspan=True):
        span = str(cell["colspan"])
        if not (span.isascii() and span.isdigit() and int(span) <= _MAX_COLSPAN):
            del cell["colspan"]
    for row in element.find_all("tr"):
        wide = row.find_all(["td", "th"], colspan=True)
        if sum(int(str(cell["colspan"])) for cell in wide) > _MAX_COLUMNS:
            for cell in wide:
                del cell["colspan"]
    for text in element.find_all(string=lambda text: "|" in (text or "")):
        if text.find_parent(["td", "th"]):
            text.replace_with(text.replace("|", "\\|"))
    for numbered in element.find_all("ol"):
        start = str(numbered.get("start") or "")
        first = int(start) if start.isdecimal() and len(start) < 10 else 1
        for number, item in enumerate(numbered.find_all("li", recursive=False), first):
            item[_NUMBER] = str(number)
    for link in element.find_all("a", href=True):
        if not str(link["href"]).startswith(("http://", "https://")):
            del link["href"]  # it leads nowhere outside its page or site
    for image in element.find_all("img"):
        _replace(image, str(image.get("alt") or ""))
    element.smooth()  # each text has its own spaces: those on both sides of what was removed become one
    return str(_converter().convert_soup(element)).strip("\n")


def _size(tag: Tag) -> int:
    return sum(len(text.strip()) for text in tag.strings)


def _title(soup: BeautifulSoup) -> str | None:
    for tag in (soup.title, soup.h1):
        if tag and tag.get_text(strip=True):
            return tag.get_text(" ", strip=True)
    return None


def _meta(soup: BeautifulSoup, *names: str) -> str | None:
    for name in names:
        for tag in soup.find_all("meta"):
            key = tag.get("property") or tag.get("name") or tag.get("itemprop") or ""
            if str(key).lower() == name and str(tag.get("content") or "").strip():
                return str(tag["content"])
    return None


@cache
def _converter() -> MarkdownConverter:
    from markdownify import MarkdownConverter

    class Converter(MarkdownConverter):
        """A MarkdownConverter whose fences are longer than any fence inside them.

        Numbered lists take linear time: the base class counts the items before each item.
        """

        def convert_li(self, element: Tag, text: str, parent_tags: set[str]) -> str:
            text = text.strip()
            if not text or _NUMBER not in element.attrs:
                return str(super().convert_li(element, text, parent_tags))  # type: ignore[misc]
            bullet = f"{element[_NUMBER]}. "
            return bullet + _LINE_START.sub(" " * len(bullet), text)[len(bullet) :] + "\n"

        def convert_pre(self, element: Tag, text: str, parent_tags: set[str]) -> str:
            code = text.strip("\n")
            if not code.strip():
                return ""
            fence = max(("```", *(run + "`" for run in _BACKTICKS.findall(code))), key=len)
            return f"\n\n{fence}{_code_language(element)}\n{code}\n{fence}\n\n"

    # Nothing is escaped: `snake_case` and `*args` must be found and embedded as they are read.
    return Converter(
        heading_style="ATX",
        bullets="-",
        table_infer_header=True,
        escape_asterisks=False,
        escape_underscores=False,
    )


def _code_language(pre: Tag) -> str:
    for tag in (pre, pre.find("code"), pre.parent, pre.parent.parent if pre.parent else None):
        classes = tag.get("class") if tag else None
        match = _CODE_LANGUAGE.search(" ".join(classes) if isinstance(classes, list) else str(classes or ""))
        if match:
            return match[1]
    return ""
