"""Names that others chose are shown as they are, and obeyed by nothing: an independent Markdown reader is the judge."""

import html
import re

import pytest
from markdown_it import MarkdownIt

from pipelines.registry.markdown import LONGEST, code, escape, link_target

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
    """What the only element ``tag`` of a page shows, where it holds text and nothing else."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", rendered, re.DOTALL)
    assert len(found) == 1, rendered
    assert "<" not in found[0], rendered
    return html.unescape(found[0])


def shown(name: str) -> str:
    return " ".join(name.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_paragraph_of_its_own_text(name: str) -> None:
    rendered = READER.render(escape(name))
    assert set(re.findall(r"</?(\w+)", rendered)) == {"p"}
    assert text_of(rendered, "p") == shown(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_cell_of_a_table(name: str) -> None:
    rendered = READER.render(f"| a | b |\n|---|---|\n| {escape(name)} | {code(name, in_table=True)} |\n\nafter")
    cells = re.findall(r"<td>(.*?)</td>", rendered, re.DOTALL)
    assert len(cells) == 2, rendered
    assert html.unescape(cells[0]) == shown(name)
    assert set(re.findall(r"</?(\w+)", rendered)) == {"table", "thead", "tbody", "tr", "th", "td", "code", "p"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_span_of_code(name: str) -> None:
    assert text_of(READER.render(f"x {code(name)}"), "code") == shown(name)


@pytest.mark.parametrize("name", ["a\n# b", "a\r\n\r\n<b>", "a\x00b", "a\u2028b", "a\x1b[31mb", "a\u202eb"])
def test_line_breaks_and_control_characters_are_spelled_out_or_spaces(name: str) -> None:
    for text in (escape(name), code(name)):
        assert text.isprintable()


def test_a_name_without_end_is_cut() -> None:
    assert len(escape("x" * 10**7)) == LONGEST + 3


def test_an_empty_name_is_no_empty_span() -> None:
    assert code("") == escape("") == ""


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
def test_a_link_leads_to_an_address_of_http_alone(url: object, good: bool) -> None:
    assert link_target(url) == (url if good else None)
