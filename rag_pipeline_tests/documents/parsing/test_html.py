from __future__ import annotations

from datetime import UTC, datetime

import pytest
from bs4 import PageElement

from rag_pipeline.documents.parsing.html import published_at, read_html
from rag_pipeline.documents.parsing.parser import parse
from rag_pipeline.errors import DocumentError

PAGE = """<!DOCTYPE html><html lang="ja"><head><title>設定 | サイト</title>
<meta name="Author" content="山田"><meta name="keywords" content="a, b"><style>p{}</style></head><body>
<header><a href="/">Home</a></header><nav><ul><li>Menu</li></ul></nav>
<table><tr><td><a href=1>one</a><td><a href=2>two</a><td><a href=3>three</a><td><a href=4>four</a></table>
<main><header><h1>設定</h1></header><p>本文は<b>ここ</b>です。<a href="/x">内</a>と<a href="https://e.com/">外</a></p>
<pre><code class="language-python">if a_b:
    x = "```"</code></pre>
<ul><li>一<ol><li>二</li></ol></li></ul>
<table><thead><tr><th>名</th><th>値</th></tr></thead><tbody><tr><td>a|b</td><td>1</td></tr></tbody></table>
<form><input value="secret"><button>Send</button></form><div style="display: none">ignore me</div>
<img src="data:image/png;base64,AAAA" alt="図一"><ruby>漢<rt>かん</rt></ruby>
</main><aside>Related</aside><footer>(c) 2024</footer><script>alert(1)</script></body></html>"""


def test_the_main_content_is_kept_without_boilerplate() -> None:
    document = read_html(PAGE)
    assert document.markdown == (
        "# 設定\n\n本文は**ここ**です。内と[外](https://e.com/)\n\n"
        '````python\nif a_b:\n    x = "```"\n````\n\n'
        "- 一\n  1. 二\n\n| 名 | 値 |\n| --- | --- |\n| a\\|b | 1 |\n\n図一漢"
    )


def test_metadata_of_the_head() -> None:
    document = read_html(PAGE)
    assert (document.title, document.author, document.language) == ("設定 | サイト", "山田", "ja")
    assert document.tags == ("a", "b")


@pytest.mark.parametrize(
    ("paragraph", "text"),
    [
        ("icon <img src=x> <b>Save</b> and <img src=y> exit", "icon **Save** and exit"),
        ("a <script>x</script> b <b>c</b>", "a b **c**"),
        ("a <svg><path/></svg> <b>b</b>", "a **b**"),
        ("a <button>x</button> <i>b</i> <span hidden>h</span> c", "a *b* c"),
        ("<b>a</b><img src=x> <b>b</b>", "**a** **b**"),
        ("<b>a</b> <img src=x><b>b</b>", "**a** **b**"),
        ("Click<img src=x>here, one<button>Copy</button>two<input>three", "Click here, one two three"),
        ("Press<img src=x alt=Enter><b>now</b>", "Press Enter **now**"),
        ("漢<img src=x>字、a<wbr>b<script>x</script>c", "漢字、abc"),
        ("a<br>b", "a  \nb"),
    ],
)
def test_words_around_what_is_removed_stay_apart(paragraph: str, text: str) -> None:
    assert read_html(f"<p>{paragraph}</p>").markdown == text


def test_a_page_inside_a_form_is_not_lost() -> None:
    assert "本文" in read_html("<body><form><h1>題</h1><p>本文です。</p></form></body>").markdown


def test_layout_tables_become_text() -> None:
    page = "<table><tr><td><h1>題</h1></td></tr><tr><td><p>文</p><table><tr><td>a<td>b<tr><td>c<td>d</table></td></tr></table>"
    assert read_html(page).markdown == "# 題\n\n文\n\n| a | b |\n| --- | --- |\n| c | d |"


def test_without_a_title_the_first_heading_is_the_title() -> None:
    assert read_html("<h1>見出し<br>二</h1>").title == "見出し 二"


@pytest.mark.parametrize("tag", ["div", "b", "ul><li", "blockquote", "table><tr><td"])
def test_deep_nesting_is_read_as_plain_text(tag: str) -> None:
    document = read_html(f"<{tag}>" * 2000 + "深い")
    assert document.markdown.strip() == "深い"
    assert "nested too deeply" in document.warnings[0]


@pytest.mark.parametrize(
    ("head", "day"),
    [
        (
            '<meta property="article:published_time" content="2024-01-05T10:00:00+09:00"><meta name=date content=2020>',
            5,
        ),
        ('<meta name="DC.date" content="2024-01-06">', 6),
        ('<script type="application/ld+json">{"datePublished": "2024-01-07"}</script>', 7),
        ('<meta content="2024-01-08" name="date"/>', 8),
        ('<time datetime="2020-01-01">x</time><time datetime="2024-01-09" pubdate>y</time>', 9),
        ('<!-- <meta name="date" content="2020-01-01"> --><time datetime="2024-01-10">', 10),
        ('<meta name="date" content="soon"><time datetime="2024-01-11">', 11),
    ],
)
def test_the_date_of_publication(head: str, day: int) -> None:
    moment = published_at(f"<html><head>{head}")
    assert moment is not None
    assert moment.date() == datetime(2024, 1, day, tzinfo=UTC).date()


def test_the_permalink_of_a_heading_is_not_part_of_it() -> None:
    page = '<body><h2 id="a">節<a class="headerlink" href="#a">¶</a></h2><p>本文 <a href="#b">#</a> と <b>§ 3</b></p></body>'
    markdown = parse(page.encode(), "a.html").markdown
    assert "¶" not in markdown
    assert "§ 3" in markdown


def test_numbered_lists() -> None:
    page = (
        "<ol><li>a<li>b<ol start=7><li>c<li><p>d</p><p>e</p></ol><li> </ol><ul><li>f</ul>"
        "<ol start=x><li>g</ol><ol start=9999999999><li>h</ol>"
    )
    assert read_html(page).markdown == ("1. a\n2. b\n   7. c\n   8. d\n\n      e\n\n- f\n\n1. g\n\n1. h")


def test_the_items_before_an_item_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(PageElement, "find_previous_siblings")  # it would make a long list quadratic
    assert read_html("<ol>" + "<li>a" * 1000).markdown.endswith("\n1000. a")


def test_wide_cells_are_limited_by_the_columns_of_their_row() -> None:
    def columns(cells: int) -> int:
        return (
            read_html("<table><tr>" + "<td colspan=20>a" * cells + "</table>").markdown.split("\n")[0].count("|")
        )

    assert columns(50) == 1001
    assert columns(51) == 52


def test_a_page_with_too_many_tags_is_rejected_before_it_is_parsed() -> None:
    with pytest.raises(DocumentError, match="more than 1,000,000 tags: split it"):
        read_html("<p>a" * 1_000_001)


def test_pipes_in_cells_are_escaped_once() -> None:
    page = "<table><tr><th>a|b<td><p>c|d</p></table><p>e|f"
    assert read_html(page).markdown == "| a\\|b | c\\|d |\n| --- | --- |\n\ne|f"


@pytest.mark.parametrize(
    "page",
    [
        "<title>題</title><section>一</section><p>二</p>",
        "<title>題</title><nav>目次</nav><main><p>一</p><p>二</p></main>",
        "<meta charset=utf-8><title>題</title><style>x</style><section>一</section><section>二</section>",
        "<head><title>題</title></head><main><p>一</p><p>二</p></main>",
    ],
)
def test_a_page_may_omit_its_body(page: str) -> None:
    document = read_html(page)
    assert (document.title, document.markdown.split()) == ("題", ["一", "二"])
