"""Untrusted text in a comment is text and nothing else: by markdown-it, and by cmark-gfm, which is GitHub's own."""

import html
import re
import subprocess
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateAssertionError, nodes
from markdown_it import MarkdownIt

from release.cli import terminal
from release.pages import templates
from release.pages.text import EMPTY, LONGEST, cell, prose, visible

NASTY = (
    "@octocat", "@org/team please look", "#12", "GH-12", "octo/repo#1", "JIRA-12", "see 4854327deadbeef", "user@host.example",
    "https://evil.example/?x=1", "www.evil.example", "mailto:a@b.c", "<img src=x onerror=alert(1)>", "</details><h1>x",
    "</code></td></tr></table>", "![x](https://evil.example/x.png)", "[x](javascript:alert(1))", "<!-- ", "-->", "**bold**",
    "`", "``", "```", "a`b``c", "`a`", "\\", "\\|", "a\\", "\\`", "|", "a|b", "||", "\\\\|", "&lt;b&gt;", "&#64;octocat",
    "$x^2$", "$`x`$", ":+1:", ":rocket:", "line\none", "a\r\n\r\n# heading", "| a | b |", "---", "===", "    code", "> quote",
    "- item", "1. item", "\u202eevil\u202c", "a\u200bb", "\u2066x\u2069", "\x1b[31mred", "\x00", "e" + "\u0301" * 50, "",
    "   ", "\t", "~~x~~", "[^1]", "[^1]: note", "[x]: https://evil.example", "<details>", "<summary>", "#ffffff", "😀" * 300,
    "```mermaid\ngraph", "\u2028", "\ufeff", "\U000e0041", "-", "+1", "a_b_c", "__init__", "x" * 5000,
)  # fmt: skip
# What GitHub's filters link in text that is in no code. Written without looking at the code under test.
LINKED = re.compile(
    r"@[a-z0-9]|#\d|\bgh-\d|\b[0-9a-f]{7,40}\b|https?:|www\.|mailto:|:[a-z0-9+_-]+:|\b[a-z]+-\d", re.IGNORECASE
)
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(st.sampled_from(NASTY), max_size=6).map("".join),
    st.text(alphabet="`|\\@#<>&*_[]()!:$~ \nab1-", max_size=40),
)
RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class Seen(HTMLParser):
    """Tags, and text in and out of code."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loose = ""
        self.code: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("img", "br", "hr"):
            self.open.append(tag)
        if tag == "code":
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "code" in self.open or "pre" in self.open:
            if self.code:
                self.code[-1] += data
        else:
            self.loose += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def gfm(text: str) -> str:
    """Rendered as GitHub does, raw HTML kept."""
    extensions = [part for name in ("table", "autolink", "strikethrough", "tasklist") for part in ("-e", name)]
    command = ["cmark-gfm", "--unsafe", *extensions]
    return subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout.decode()


def in_table(text: str) -> str:
    return f"| a | b | c |\n| --- | --- | --- |\n| left | {text} | right |\n\nafter\n"


def shown(text: str) -> str:
    return visible(text).replace("|", "│")


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(TEXTS)
def test_a_cell_is_one_code_span_with_the_visible_text(text: str) -> None:
    tokens = RENDERER.parse(in_table(cell(text)))
    assert [token.type for token in tokens].count("td_open") == 3
    inlines = [token for token in tokens if token.type == "inline"]
    assert [token.content for token in (inlines[3], inlines[5], inlines[6])] == ["left", "right", "after"]
    middle = inlines[4].children or []
    if not shown(text):
        assert inlines[4].content == EMPTY
        return
    assert [child.type for child in middle] == ["code_inline"]
    assert middle[0].content == shown(text)


@pytest.mark.parametrize("text", NASTY)
def test_github_s_own_renderer_agrees(text: str) -> None:
    for written, where in (
        (in_table(cell(text)), "td"),
        (f"A line with {cell(text)} in it.\n", "p"),
        (f"- {cell(text)}\n", "li"),
    ):
        seen = Seen(gfm(written))
        assert not LINKED.search(seen.loose)
        assert set(seen.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "p", "ul", "li", "code", "em"}, where
        assert seen.code == ([shown(text)] if shown(text) else [])
        assert not [name for name, _ in seen.attributes if name != "align"]


@pytest.mark.slow
def test_github_s_own_renderer_agrees_on_a_thousand_at_once() -> None:
    """One table of many rows: no cell reaches into another."""
    texts = [one + two for one in NASTY[:40] for two in NASTY[:40]]
    table = "\n".join(["| a | b | c |", "| --- | --- | --- |", *(f"| left | {cell(text)} | right |" for text in texts)])
    seen = Seen(gfm(table))
    assert seen.tags.count("td") == 3 * len(texts)
    assert seen.code == [shown(text) for text in texts if shown(text)]
    assert html.unescape(seen.loose).count("left") == html.unescape(seen.loose).count("right") == len(texts)


@pytest.mark.parametrize("text", NASTY)
def test_a_terminal_shows_the_text_of_a_cell_without_its_marks(text: str) -> None:
    lines = terminal.text(in_table(cell(text))).splitlines()
    assert lines[2] == f"  left  {shown(text) or '(empty)'}  right"
    assert all(line.isprintable() for line in lines)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(TEXTS)
@example("23 of 445 test rows (5.2%) share 13 words; at most 8.0% may")
@example("lowest: 'show' +0.644 [+0.511, +0.760] on 45 rows")
@example("[0.1](x)")
@example("a [0.1, 0.2]: b")
def test_a_sentence_is_words_or_one_code_span(text: str) -> None:
    for written in (f"Found: {prose(text)} and more.", in_table(prose(text)), f"- {prose(text)}"):
        seen = Seen(RENDERER.render(written))
        assert set(seen.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "p", "ul", "li", "code", "em"}
        assert not LINKED.search(seen.loose), seen.loose
        said = html.unescape(seen.loose) + "".join(seen.code)
        assert visible(text, LONGEST * 4).replace("|", "│") in said.replace("\n", " ") or not visible(text)


def test_a_sentence_names_commands_as_they_can_be_typed_in_a_clone() -> None:
    assert prose("no evidence: run `lockstep run`") == "`` no evidence: run `./lockstep run` ``"


@pytest.mark.parametrize(
    "text",
    [
        "exact-match +0.710 against base (lower 95% bound +0.667, p 2e-15): better",
        "lowest: 'show' +0.644 [+0.511, +0.760] on 45 rows against base",
        "parameters_millions 134.5, at most 150; artifact_mb 269.1, at most 300",
        "nothing has been promoted to production yet",
    ],
)
def test_a_gate_s_own_words_stay_words(text: str) -> None:
    assert prose(text) == text


@pytest.mark.parametrize(
    ("text", "longest", "expected"),
    [
        ("a\u202eb", 99, "a⟨U+202E RIGHT-TO-LEFT OVERRIDE⟩b"),
        ("می\u200cخواهم 👩\u200d💻", 99, "می\u200cخواهم 👩\u200d💻"),
        (" a \n\n b ", 10, "a b"),
        ("abcdef", 4, "abc…"),
        ("e" + "\u0301" * 50, 99, "e" + "\u0301" * 4),
        ("नमस्ते", 99, "नमस्ते"),
        ("\x1b[31m", 99, "\ufffd[31m"),
    ],
)
def test_what_is_seen_is_one_line_without_what_hides(text: str, longest: int, expected: str) -> None:
    assert visible(text, longest) == expected


# the template


def written(source: str, **values: object) -> str:
    return templates.environment("release.review").from_string(source).render(values)


@pytest.mark.parametrize("text", NASTY)
def test_the_template_writes_a_text_as_a_code_span_unless_it_says_otherwise(text: str) -> None:
    assert written("{{ x }}", x=text) == cell(text)
    assert written("{% macro m(x) %}{{ x }}{% endmacro %}{{ m(x) }}", x=text) == cell(text)
    assert written("{% set y %}{{ x }}{% endset %}{{ y }}", x=text) == cell(text)
    assert written("{{ x | said }}", x=text) == prose(text)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("{{ x }}", None),
        ("{{ x }}", 0.5),
        ("{{ x }}", True),
        ("{{ x }}", ("a",)),
        ("{{ x.y }}", "text"),
        ("{{ x | bare }}", "text"),
    ],
)
def test_the_template_writes_nothing_that_it_does_not_know_how_to_write(source: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        written(source, x=value)


@pytest.mark.parametrize("name", ["safe", "join", "format", "replace", "string", "escape", "upper", "tojson"])
def test_no_filter_of_jinja_that_makes_text_is_there_to_be_used(name: str) -> None:
    with pytest.raises(TemplateAssertionError):
        written(f"{{{{ x | {name} }}}}", x="text")


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("release.review", "comment.md.jinja"),
        ("release.review", "comparison.md.jinja"),
        ("release.pages", "parts.md.jinja"),
        ("release.cards", "cards.md.jinja"),
        ("release.cards", "data.md.jinja"),
    ],
)
def test_a_template_joins_no_text_around_the_escaping(package: str, name: str) -> None:
    environment = templates.environment(package)
    assert environment.loader is not None
    found = environment.parse(environment.loader.get_source(environment, name)[0])
    assert not list(found.find_all((nodes.Concat, nodes.Add, nodes.Mod, nodes.ScopedEvalContextModifier)))
