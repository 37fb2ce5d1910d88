"""Builders of minimal but real PDF and DOCX files, and of hostile ones."""

from __future__ import annotations

import base64
import zipfile
from io import BytesIO
from xml.sax.saxutils import escape

_TO_UNICODE = b"""/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /Own def
1 begincodespacerange <0000> <FFFF> endcodespacerange
1 beginbfrange <0000> <FFFF> <0000> endbfrange
endcmap end end"""


def pdf(*pages: list[str], info: dict[str, str] | None = None) -> bytes:
    """Return a PDF whose pages have these lines, in a font with UTF-16 codes, so that any text is possible."""
    objects: list[bytes] = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"",
        b"<< /Type /Font /Subtype /Type0 /BaseFont /Own /Encoding /Identity-H "
        b"/DescendantFonts [4 0 R] /ToUnicode 6 0 R >>",
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Own /FontDescriptor 5 0 R /DW 1000 "
        b"/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        b"<< /Type /FontDescriptor /FontName /Own /Flags 4 /FontBBox [0 0 1000 1000] /ItalicAngle 0 "
        b"/Ascent 800 /Descent -200 /CapHeight 700 /StemV 80 >>",
        _stream(_TO_UNICODE),
        b"<< %s >>" % b" ".join(b"/%s %s" % (key.encode(), _text(value)) for key, value in (info or {}).items()),
    ]
    kids = []
    for lines in pages:
        drawn = b"\n".join(
            b"BT /F1 10 Tf 40 %d Td %s Tj ET" % (800 - 14 * number, _text(line, mark=False))
            for number, line in enumerate(lines)
        )
        objects.append(_stream(drawn))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(kids))
    return _pdf_file(objects, info=7)


def pdf_of_forms(*drawn: list[int]) -> bytes:
    """Return a PDF of a page that draws the first of these form XObjects; each form draws others, by their numbers."""
    first = 5
    page = _stream(b"/X0 Do")
    forms = [
        b"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Length %d /Resources << /XObject << %s >> >> >>\n"
        b"stream\n%s\nendstream"
        % (
            sum(len(b"/X%d Do " % other) for other in others),
            b" ".join(b"/X%d %d 0 R" % (other, first + other) for other in set(others)),
            b"".join(b"/X%d Do " % other for other in others),
        )
        for others in drawn
    ]
    return _pdf_file(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
            b"/Resources << /XObject << /X0 5 0 R >> >> >>",
            page,
            *forms,
        ]
    )


def _pdf_file(objects: list[bytes], info: int | None = None) -> bytes:
    out = BytesIO(b"%PDF-1.7\n")
    out.seek(0, 2)
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % offset for offset in offsets))
    named = b" /Info %d 0 R" % info if info else b""
    out.write(b"trailer << /Size %d /Root 1 0 R%s >>\n" % (len(objects) + 1, named))
    out.write(b"startxref\n%d\n%%%%EOF\n" % start)
    return out.getvalue()


def _stream(data: bytes) -> bytes:
    return b"<< /Length %d >>\nstream\n%s\nendstream" % (len(data), data)


def _text(text: str, mark: bool = True) -> bytes:
    """Return a PDF string in hexadecimal UTF-16. Metadata needs the mark, glyph codes must not have it."""
    return b"<%s%s>" % (b"FEFF" if mark else b"", text.encode("utf-16-be").hex().encode())


def hostile_files() -> dict[str, bytes]:
    """Return files that are small for the time or the memory that a parser takes for them, by name."""
    return {
        "doubling.pdf": pdf_of_forms(*([number + 1] * 2 for number in range(28)), []),
        "endless.pdf": pdf_of_forms([0, 0]),
        "elements.html": b"<title>t</title>" + b"<p>a" * 7_500_000,
        "numbered.html": b"<ol>" + b"<li>a" * 10_000,
        "columns.html": b"<table><tr>" + b"<td colspan=20>a" * 50_000,
        "paragraphs.docx": docx([("", "a")] * 1_000_000),
    }


_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"

_CONTENT_TYPES = f"""<?xml version="1.0"?><Types xmlns="{_PACKAGE}/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/>
<Override PartName="/word/document.xml"
 ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
_RELATIONSHIPS = f"""<?xml version="1.0"?><Relationships xmlns="{_PACKAGE}/relationships">
<Relationship Id="r1" Type="{_OFFICE}/officeDocument" Target="word/document.xml"/></Relationships>"""
_PART_RELATIONSHIPS = f"""<?xml version="1.0"?><Relationships xmlns="{_PACKAGE}/relationships">
<Relationship Id="r1" Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>"""


def docx(paragraphs: list[tuple[str, str]], *, core: str = "", table: list[list[str]] | None = None) -> bytes:
    """Return a Word document of (style name, text) paragraphs, a table, and these elements as core properties."""
    styles = sorted({style for style, _ in paragraphs if style})
    ids = {style: f"s{number}" for number, style in enumerate(styles)}
    body = "".join(
        "<w:p>"
        + (f'<w:pPr><w:pStyle w:val="{ids[style]}"/></w:pPr>' if style else "")
        + f"<w:r><w:t>{escape(text)}</w:t></w:r></w:p>"
        for style, text in paragraphs
    )
    if table:
        rows = (
            "<w:tr>"
            + "".join(f"<w:tc><w:p><w:r><w:t>{escape(c)}</w:t></w:r></w:p></w:tc>" for c in row)
            + "</w:tr>"
            for row in table
        )
        body += "<w:tbl>" + "".join(rows) + "</w:tbl>"
    parts = {
        "[Content_Types].xml": _CONTENT_TYPES,
        "_rels/.rels": _RELATIONSHIPS,
        "word/_rels/document.xml.rels": _PART_RELATIONSHIPS,
        "word/document.xml": f'<w:document xmlns:w="{_WORD}"><w:body>{body}</w:body></w:document>',
        "word/styles.xml": f'<w:styles xmlns:w="{_WORD}">'
        + "".join(
            f'<w:style w:type="paragraph" w:styleId="{ids[style]}"><w:name w:val="{style}"/></w:style>'
            for style in styles
        )
        + "</w:styles>",
        "docProps/core.xml": f'<cp:coreProperties xmlns:cp="{_PACKAGE}/metadata/core-properties" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/">'
        f"{core}</cp:coreProperties>",
    }
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return out.getvalue()


ENCRYPTED_PDF = base64.b64decode(
    "JVBERi0xLjMKJeLjz9MKMSAwIG9iago8PAovVHlwZSAvQ2F0YWxvZwovUGFnZXMgMiAwIFIKPj4KZW5kb2JqCjIgMCBvYmoKPDwKL1R5cGUg"
    "L1BhZ2VzCi9Db3VudCAxCi9LaWRzIFsgMyAwIFIgXQo+PgplbmRvYmoKMyAwIG9iago8PAovVHlwZSAvUGFnZQovUGFyZW50IDIgMCBSCi9N"
    "ZWRpYUJveCBbIDAgMCA1OTUgODQyIF0KL0NvbnRlbnRzIDQgMCBSCi9SZXNvdXJjZXMgPDwKL0ZvbnQgPDwKL0YxIDUgMCBSCj4+Cj4+Cj4+"
    "CmVuZG9iago0IDAgb2JqCjw8Ci9MZW5ndGggNzUKPj4Kc3RyZWFtCgLljuCyCTJmpYqFtg4MWfeR0AaPxdk0XPi1WMS9tJWKJVJkzJCR/SOF"
    "4lqFZ4JWUbd6SOaYpxmWG/m5YtBs6EjX6SVUV20aowmaDQplbmRzdHJlYW0KZW5kb2JqCjUgMCBvYmoKPDwKL1R5cGUgL0ZvbnQKL1N1YnR5"
    "cGUgL1R5cGUwCi9CYXNlRm9udCAvT3duCi9FbmNvZGluZyAvSWRlbnRpdHktSAovRGVzY2VuZGFudEZvbnRzIFsgNiAwIFIgXQovVG9Vbmlj"
    "b2RlIDggMCBSCj4+CmVuZG9iago2IDAgb2JqCjw8Ci9UeXBlIC9Gb250Ci9TdWJ0eXBlIC9DSURGb250VHlwZTIKL0Jhc2VGb250IC9Pd24K"
    "L0ZvbnREZXNjcmlwdG9yIDcgMCBSCi9EVyAxMDAwCi9DSURTeXN0ZW1JbmZvIDw8Ci9SZWdpc3RyeSA8MGNiYmJiN2Q1Nz4KL09yZGVyaW5n"
    "IDwwNGJiYjE3MTQ2YzI2NWRhPgovU3VwcGxlbWVudCAwCj4+Cj4+CmVuZG9iago3IDAgb2JqCjw8Ci9UeXBlIC9Gb250RGVzY3JpcHRvcgov"
    "Rm9udE5hbWUgL093bgovRmxhZ3MgNAovRm9udEJCb3ggWyAwIDAgMTAwMCAxMDAwIF0KL0l0YWxpY0FuZ2xlIDAKL0FzY2VudCA4MDAKL0Rl"
    "c2NlbnQgLTIwMAovQ2FwSGVpZ2h0IDcwMAovU3RlbVYgODAKPj4KZW5kb2JqCjggMCBvYmoKPDwKL0xlbmd0aCAxOTYKPj4Kc3RyZWFtCljp"
    "iO9yFGR4tUNc2ApjF5sIrQav1fKx8wiIHyjZEI2e/Ce/dlGkz4z/Yu6mOsqEhqTJmsFx9PL+9SSl+U3x9Oap31GugZm35o0kdvNWF6e4wBvJ"
    "fjvNpqE9axoEwF+WAJE9PBp9j06g/Yxfj97mWrfNvPQhAy5wkLm7qOWQ/1T4n+UPpmAg4jk7JHb69tgUfZicYUThQkR4xtjx9oy7RZZWohjG"
    "nsptMkT87ZH0QYx0fe6S5ZV1WWmSm2bodPoh85jPMZQKZW5kc3RyZWFtCmVuZG9iago5IDAgb2JqCjw8Cj4+CmVuZG9iagoxMCAwIG9iago8"
    "PAovViAyCi9SIDMKL0xlbmd0aCAxMjgKL1AgNDI5NDk2NzI5MgovRmlsdGVyIC9TdGFuZGFyZAovTyA8MGU1MjI5MjVhM2U0ZTg3NGMzY2Zh"
    "Y2JlZjUxMWE3M2FjNGVjMmJkODY1ZGNkM2Q0NjI3NjE0OTE3YWJmZDdlND4KL1UgPGM5OTViODU0ODI3NmVhODU5YzIzMDUxMDhkMzkzYWM1"
    "MjhiZjRlNWU0ZTc1OGE0MTY0MDA0ZTU2ZmZmYTAxMDg+Cj4+CmVuZG9iagp4cmVmCjAgMTEKMDAwMDAwMDAwMCA2NTUzNSBmIAowMDAwMDAw"
    "MDE1IDAwMDAwIG4gCjAwMDAwMDAwNjQgMDAwMDAgbiAKMDAwMDAwMDEyMyAwMDAwMCBuIAowMDAwMDAwMjUxIDAwMDAwIG4gCjAwMDAwMDAz"
    "NzYgMDAwMDAgbiAKMDAwMDAwMDUwNiAwMDAwMCBuIAowMDAwMDAwNjk1IDAwMDAwIG4gCjAwMDAwMDA4NTYgMDAwMDAgbiAKMDAwMDAwMTEw"
    "MyAwMDAwMCBuIAowMDAwMDAxMTI0IDAwMDAwIG4gCnRyYWlsZXIKPDwKL1NpemUgMTEKL1Jvb3QgMSAwIFIKL0luZm8gOSAwIFIKL0lEIFsg"
    "PGZiOWQ5ZWIwOTNhYTE5NzcxOTlkNjE4MTQwYjBiOTljPiA8ZmI5ZDllYjA5M2FhMTk3NzE5OWQ2MTgxNDBiMGI5OWM+IF0KL0VuY3J5cHQg"
    "MTAgMCBSCj4+CnN0YXJ0eHJlZgoxMzQwCiUlRU9GCg=="
)
"""A page with text, encrypted (RC4, 128 bit) with the user password `secret`."""
