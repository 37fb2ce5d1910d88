"""Reader for Markdown with YAML front matter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rag_pipeline.documents.cleaning import clean_tags
from rag_pipeline.documents.parsing.dates import parse_date
from rag_pipeline.documents.parsing.extracted_document import ExtractedDocument

MAX_FRONT_MATTER = 16 * 1024
"""Characters. A longer block is not front matter."""

_BLOCK = re.compile(r"---[ \t]*\n(?P<yaml>(?:.*\n)*?)(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
# Only at the start of a word: from each of its letters, the rest of it would be read again.
_KEY = re.compile(r"(?<![\w-])([A-Za-z_][\w-]*)[ \t]*:(?:[ \t]+(.*))?$", re.MULTILINE)

_TITLE = ("title",)
_DATE = ("date", "created_at", "created", "published_at", "published", "pubdate")
_AUTHOR = ("author", "authors")
_LANGUAGE = ("language", "lang", "locale")
_CATEGORY = ("category", "categories")
_TAGS = ("tags", "tag", "keywords")


def read_markdown(text: str) -> ExtractedDocument:
    """Extract the text of a Markdown document and the metadata in its front matter.

    Front matter that is not valid YAML is read line by line, with a warning.
    """
    fields, content, warnings = split_front_matter(text)
    return ExtractedDocument(
        markdown=content,
        title=_text(_first(fields, _TITLE)),
        author=_text(_first(fields, _AUTHOR)),
        language=_text(_first(fields, _LANGUAGE)),
        language_is_certain=True,
        category=next(iter(_texts(_first(fields, _CATEGORY))), None),
        tags=_tags(_first(fields, _TAGS)),
        stated_date=_text(_first(fields, _DATE)),
        warnings=warnings,
    )


def created_at(text: str) -> datetime | None:
    """Return the date in the front matter of a Markdown document."""
    fields, _, _ = split_front_matter(text)
    return parse_date(_text(_first(fields, _DATE)))


def split_front_matter(text: str) -> tuple[Mapping[str, Any], str, tuple[str, ...]]:
    """Return the fields of the front matter with lower-case keys, the text after it, and warnings.

    Values are strings, lists and mappings of strings: `no` stays `no`, `1.10` stays `1.10`, and a date that does
    not exist affects nothing else. A block between two rules without any `key:` is content.
    """
    match = _BLOCK.match(text, 0, MAX_FRONT_MATTER)
    if match is None or (match["yaml"].strip() and not _KEY.search(match["yaml"])):
        return {}, text, ()
    content = text[match.end() :]
    try:
        fields = _load_yaml(match["yaml"])
    except ValueError as error:
        salvaged = {key.lower(): _unquoted(value) for key, value in _KEY.findall(match["yaml"])}
        return salvaged, content, (f"the front matter is not valid YAML ({error}): it was read line by line",)
    if fields is None:
        return {}, content, ()
    if not isinstance(fields, Mapping):
        return {}, text, ()
    return {str(key).lower(): value for key, value in fields.items()}, content, ()


def _load_yaml(text: str) -> object:
    import yaml

    try:
        # BaseLoader reads every scalar as a string: no dates, numbers or objects.
        return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 2}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise ValueError(type(error).__name__) from None


def _first(fields: Mapping[str, Any], names: Iterable[str]) -> object:
    return next((fields[name] for name in names if fields.get(name)), None)


def _texts(value: object) -> list[str]:
    """Return the strings in a value: the items of a list, the name of `{name: …}`."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return _texts(value.get("name")) if isinstance(value.get("name"), str) else []
    if isinstance(value, list):
        return [item for entry in value[:100] if not isinstance(entry, list) for item in _texts(entry)]
    return []


def _text(value: object) -> str | None:
    return ", ".join(_texts(value)) or None


def _tags(value: object) -> tuple[str, ...]:
    return clean_tags(value if isinstance(value, str) else _texts(value))


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return value.strip("[]") if value.startswith("[") else value
