"""Titles that a program has filled in, which say nothing of the document."""

from __future__ import annotations

import re
import unicodedata

_PROGRAM = re.compile(r"\A\s*Microsoft (?:Office )?(?:Word|PowerPoint|Excel)\s*-\s*", re.IGNORECASE)
_FILE_TYPE = re.compile(r"\.(?:docx?|docm|dotx?|pptx?|xlsx?|rtf|odt|odp|ods|pdf|txt|html?)\s*\Z", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"""
    (?: untitled (?:[ ]?(?:document|page|presentation|spreadsheet))? | no[ ]title | new[ ](?:document|page) | \(anonymous\)
    | unspecified | document | microsoft[ ](?:word|excel|powerpoint) | (?:power[ ]?point[ ])?(?:presentation|プレゼンテーション)
    | 無題 (?:の?(?:ドキュメント|文書|ページ|プレゼンテーション|スプレッドシート))? | 名称未設定 | タイトルなし | 新規(?:文書|ドキュメント)
    | (?:document|book|workbook|presentation|文書|ドキュメント|プレゼンテーション|ブック) [ ]? \d{1,3}
    )
    (?: [ _-]? \(? \d{1,3} \)? )?
    """,
    re.VERBOSE | re.IGNORECASE,
)


def meaningful_title(text: str | None) -> str | None:
    """Return a title from a file's properties without what its program adds; None for a placeholder.

    `Microsoft Word - 仕様書.docx` is `仕様書`; `untitled`, `無題` and `Document1` are no titles.
    """
    if not text:
        return None
    title, programs = _PROGRAM.subn("", text)
    name = _FILE_TYPE.sub("", title)
    if _PLACEHOLDER.fullmatch(unicodedata.normalize("NFKC", name).strip()):
        return None
    return (name if programs else title).strip() or None
