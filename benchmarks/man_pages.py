"""Manual pages as a test of retrieval: pages as Markdown, and queries whose answer is known.

Debian's packages manpages-ja and manpages-ja-dev hold the Japanese pages; manpages, manpages-dev and any other package
the English ones of the same names.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"^(名前|名称|NAME)$", re.IGNORECASE)
_FONT = re.compile(r"\\f(?:\(..|\[[^]]*\]|.)")
_SIZE = re.compile(r"\\s[+-]?\d+")
_ESCAPES = {
    "\\-": "-",
    "\\&": "",
    "\\e": "\\",
    "\\ ": " ",
    "\\(aq": "'",
    "\\(bu": "*",
    "\\(co": "©",
    "\\|": "",
    "\\^": "",
}
_BLANK = re.compile(r"\n{3,}")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"|(\S+)')
_TEXT_MACROS = {"B", "I", "BI", "BR", "IB", "IR", "RB", "RI", "SM", "SB", "R"}
_JOINED = {"BI", "BR", "IB", "IR", "RB", "RI"}


@dataclass(frozen=True)
class Page:
    """A manual page."""

    name: str
    """Such as `ls.1`."""
    summary: str
    """What its line NAME says after the dash; the page's text does not contain it."""
    sections: tuple[str, ...]
    """The headings, in order."""
    markdown: str


@dataclass(frozen=True)
class Query:
    """A question with one right page, and for headings one right section of it."""

    kind: str
    """`summary`, `section` or `english`."""
    text: str
    page: str
    section: str | None = None


def read_pages(folder: Path, limit: int) -> list[Page]:
    """Return pages of a folder of manual pages, evenly spread over their names, without aliases and empty pages."""
    # a link is the same page under another name
    found = (file for file in sorted(folder.rglob("*.[1-8]*.gz")) if not file.is_symlink())
    files = {file.name.removesuffix(".gz"): file for file in found}
    step = max(1, len(files) // (limit * 3))
    pages: list[Page] = []
    for name, file in list(files.items())[::step]:
        page = _page(name, gzip.decompress(file.read_bytes()).decode("utf-8", "replace"))
        if page is not None and len(page.markdown) > 1500 and len(page.sections) > 2:
            pages.append(page)
    return pages[:: max(1, len(pages) // limit)][:limit]


def queries(pages: Iterable[Page], english: Iterable[Path]) -> Iterator[Query]:
    """Yield the queries of these pages: their summaries, headings that only one has, and their English summaries."""
    pages = list(pages)
    headings = Counter(heading for page in pages for heading in page.sections)
    in_english = {
        file.name.removesuffix(".gz"): file for folder in english for file in folder.rglob("*.[1-8]*.gz")
    }
    for page in pages:
        yield Query("summary", page.summary, page.name)
        own = [heading for heading in page.sections if headings[heading] == 1 and len(heading) > 4]
        for heading in own[:2]:
            yield Query("section", heading, page.name, heading)
        if file := in_english.get(page.name):
            theirs = _page(page.name, gzip.decompress(file.read_bytes()).decode("utf-8", "replace"))
            if theirs is not None and theirs.summary.isascii():
                yield Query("english", theirs.summary, page.name)


def _page(name: str, source: str) -> Page | None:
    """Read a page in man(7) macros; None if it has no NAME, as aliases and pages in mdoc(7) have none."""
    lines: list[str] = []
    sections: list[str] = []
    summary = ""
    in_name = literal = False
    for line in source.replace("\\\n", "").split("\n"):
        macro, _, rest = line[1:].partition(" ") if line[:1] in (".", "'") else ("", "", "")
        macro = macro.strip()
        if macro in ("SH", "SS"):
            heading = _text(_arguments(rest, " "))
            in_name = macro == "SH" and bool(_NAME.match(heading))
            if not in_name and heading:
                sections.append(heading)
                lines += ["", ("## " if macro == "SH" else "### ") + heading, ""]
        elif macro in ("nf", "EX"):
            lines += ["", "```"]
            literal = True
        elif macro in ("fi", "EE") and literal:
            lines += ["```", ""]
            literal = False
        elif in_name:
            summary += " " + (
                _text(_arguments(rest, " ")) if macro in _TEXT_MACROS else "" if macro else _text(line)
            )
        elif macro in _TEXT_MACROS:
            lines.append(_text(_arguments(rest, "" if macro in _JOINED else " ")))
        elif macro in ("TP", "IP", "PP", "P", "LP", "sp", "HP"):
            lines += ["", _text(_arguments(rest, " ")) if macro == "IP" else ""]
        elif not line.startswith((".", "'")):
            lines.append(_text(line))
    if literal:
        lines.append("```")
    _, dash, about = summary.partition(" - ")
    body = _BLANK.sub("\n\n", "\n".join(lines)).strip()
    if not dash or not about.strip():
        return None
    about = " ".join(about.split())
    title = name.rsplit(".", 1)[0]
    return Page(name, about, tuple(sections), f"# {title}\n\n{body}\n".replace(about, ""))


def _arguments(rest: str, separator: str) -> str:
    return separator.join(quoted.replace('""', '"') or plain for quoted, plain in _QUOTED.findall(rest))


def _text(line: str) -> str:
    line = _SIZE.sub("", _FONT.sub("", line))
    for escape, character in _ESCAPES.items():
        line = line.replace(escape, character)
    return unicodedata.normalize("NFC", line).strip()
