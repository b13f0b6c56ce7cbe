"""What MkDocs asks while it builds the site: the pages, their links, their equations.

All that can be said without MkDocs stands in the modules beside this one.
"""

from __future__ import annotations

import re
import sys
from html import escape, unescape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import contents  # noqa: E402
import links  # noqa: E402
import reference  # noqa: E402
from latex2mathml.converter import convert  # noqa: E402
from mkdocs.structure.files import File, Files, InclusionLevel  # noqa: E402

SITE = contents.Contents()
PAGES = {page.place: page for page in SITE.pages}
WEIGHTS = {"questions": 4, "recipes/": 3, "tutorial/": 2, "compare": 0.5, "museum": 0.5}
"""How much the search prefers pages whose place begins so; long lists of cases come last."""

ALONE = {s.pages[0].place for s in SITE.sections if len(s.pages) == 1}


def on_files(files: Files, *, config: Any) -> Files:
    """Take in the pages from outside of docs/, and say what the navigation is."""
    for page in SITE.pages:
        if page.source is not None and page.source.startswith("docs/"):
            continue  # MkDocs has it already
        text = page.write()
        if page.hidden:
            text = f"---\nsearch:\n  exclude: true\n---\n{text}"
        inclusion = InclusionLevel.NOT_IN_NAV if page.hidden else InclusionLevel.UNDEFINED
        files.append(File.generated(config, page.place, content=text, inclusion=inclusion))
    for asset in SITE.assets():
        files.append(File.generated(config, asset, abs_src_path=str(contents.ROOT / asset)))
    for notebook in (contents.ROOT / "tutorial").glob("*.ipynb"):
        name = f"tutorial/{notebook.name}"
        files.append(File.generated(config, name, abs_src_path=str(notebook)))
    config.nav = SITE.navigation()
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Links to files of the repository become links to pages."""
    weight = next((w for start, w in WEIGHTS.items() if page.file.src_uri.startswith(start)), 1)
    page.meta.setdefault("search", {"boost": weight})
    if page.file.src_uri in ALONE:
        page.meta.setdefault("hide", ["navigation"])
    return SITE.relinked(markdown, PAGES[page.file.src_uri])


MATHS = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
CODE = re.compile(r"(<pre.*?</pre>|<h\d.*?</h\d>|<a\b.*?</a>)|<code>([^<]+)</code>", re.DOTALL)


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """LaTeX becomes MathML; code such as ``rs.trace(layer)`` leads to the reference."""
    html = MATHS.sub(_mathml, html)
    html = html.replace('<a class="notebook" data-file=', '<a class="notebook" href=')
    if any(_columns(table[0]) > 4 for table in TABLE.finditer(html)):
        page.meta["hide"] = ["toc"]  # a wide table needs the room; the sections stand above it
        sections = [
            f'<a href="{item.url}">{escape(item.title)}</a>' for item in page.toc.items[0].children
        ]
        html = html.replace("</h1>", f'</h1>\n<p class="sections">{" · ".join(sections)}</p>', 1)
    anchors = reference.written_anchors()

    def linked(match: re.Match[str]) -> str:
        code = match[2]
        if code is None:
            return match[0]
        name = re.match(r"(?:with )?([\w.]+)", unescape(code))
        place = anchors.get(name[1]) if name else None
        if place is None:
            return match[0]
        address = links.relative(place, page.file.dest_uri)
        return f'<a class="named" href="{address}"><code>{code}</code></a>'

    return TABLE.sub(_stacked, CODE.sub(linked, html))


def _stacked(match: re.Match[str]) -> str:
    """On a narrow screen the cells of a row stand one below the other, except in tables of numbers.
    Where there are many, each says which column it is of; so does a number, wherever it stands."""
    table = match[0]
    many = _columns(table) > 3
    if many and "<code" not in table.partition("<tbody>")[2]:
        return table
    titles = [
        re.sub(r"<[^>]+>", "", title) for title in re.findall(r"<th\b[^>]*>(.*?)</th>", table)
    ]

    def labelled(row: re.Match[str]) -> str:
        cells = row[0].split("<td")
        for k, title in enumerate(titles, 1):
            if title and (many or re.search(r">[\d., ]+</td>", cells[k])):
                cells[k] = f' data-column="{title}"{cells[k]}'
        return "<td".join(cells)

    table = re.sub(r"<tr>\s*<td.*?</tr>", labelled, table, flags=re.DOTALL)
    return table.replace("<table>", '<table class="few">', 1)


def _columns(table: str) -> int:
    return len(re.findall(r"<th\b", table))


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    latex = unescape(match[3]).strip().replace("{aligned}", "{align*}")
    mathml = str(convert(latex, display=display))
    if "<mi>&</mi>" in mathml or "<mi>$</mi>" in mathml:
        raise ValueError(f"a sign stands in the formula as it is written: {latex}")
    return mathml


def on_post_page(output: str, **_: Any) -> str:
    """A name for screen readers that the theme leaves out."""
    return output.replace(
        'data-md-component="search" role="dialog"',
        'data-md-component="search" role="dialog" aria-label="Search"',
    )


def on_post_build(*, config: Any) -> None:
    """A page for addresses that a host does not know has links that only a host resolves."""
    (Path(config.site_dir) / "404.html").unlink(missing_ok=True)
