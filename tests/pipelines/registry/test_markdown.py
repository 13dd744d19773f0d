"""Untrusted names render as plain text in an independent Markdown parser."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from pipelines.registry.markdown import MAX_NAME_LENGTH, code_span, escape_markdown, link_target

NAMES = [
    "<script>alert(1)</script>",
    "![](http://example.org/a.png)",
    "![x][y]",
    "[a](javascript:alert(1))",
    "<http://example.org>",
    "# heading",
    "## heading",
    "- item",
    "+ item",
    "* item",
    "1. item",
    "2) item",
    "> quote",
    "a | b",
    "a\\|b",
    "`code`",
    "``",
    "a ` b `` c",
    "**bold** _it_ __it__ ~~no~~",
    "&lt;script&gt; &amp; &#60;",
    "---",
    "===",
    "    indented",
    "blue_tit",
    "Tom & Jerry",
    "\\",
    "ends with \\",
    "| --- |",
    ": a",
    "<!-- hidden",
    "<img src=x onerror=alert(1)>",
    "größer, 日本語",
]
READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def text_of(rendered: str, tag: str) -> str:
    """The text of the only element ``tag`` of a page; fails if it contains other elements."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", rendered, re.DOTALL)
    assert len(found) == 1, rendered
    assert "<" not in found[0], rendered
    return html.unescape(found[0])


def shown(name: str) -> str:
    return " ".join(name.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_name_renders_as_its_own_text_in_a_paragraph(name: str) -> None:
    rendered = READER.render(escape_markdown(name))
    assert set(re.findall(r"</?(\w+)", rendered)) == {"p"}
    assert text_of(rendered, "p") == shown(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_renders_as_one_table_cell(name: str) -> None:
    rendered = READER.render(
        f"| a | b |\n|---|---|\n| {escape_markdown(name)} | {code_span(name, in_table=True)} |\n\nafter"
    )
    cells = re.findall(r"<td>(.*?)</td>", rendered, re.DOTALL)
    assert len(cells) == 2, rendered
    assert html.unescape(cells[0]) == shown(name)
    assert set(re.findall(r"</?(\w+)", rendered)) == {"table", "thead", "tbody", "tr", "th", "td", "code", "p"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_renders_as_a_code_span(name: str) -> None:
    assert text_of(READER.render(f"x {code_span(name)}"), "code") == shown(name)


@pytest.mark.parametrize("name", ["a\n# b", "a\r\n\r\n<b>", "a\x00b", "a\u2028b", "a\x1b[31mb", "a\u202eb"])
def test_line_breaks_and_control_characters_are_replaced(name: str) -> None:
    for text in (escape_markdown(name), code_span(name)):
        assert text.isprintable()


def test_a_long_name_is_truncated() -> None:
    assert len(escape_markdown("x" * 10**7)) == MAX_NAME_LENGTH + 3
    assert escape_markdown("x" * 300, most=300) == "x" * 300


def test_an_empty_name_renders_as_nothing() -> None:
    assert code_span("") == escape_markdown("") == ""


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://127.0.0.1:5000/#/experiments/1/runs/2", True),
        ("https://server/mlflow/#/x?a=b&c=d", True),
        ("javascript:alert(1)", False),
        ("http://a) ![](http://b", False),
        ("http://a b", False),
        ("", False),
        (None, False),
        (5, False),
    ],
)
def test_links_lead_only_to_http_addresses(url: object, good: bool) -> None:
    assert link_target(url) == (url if good else None)
