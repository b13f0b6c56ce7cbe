"""Whether every link leads somewhere: `python docs/links.py [SITE]`.

Without an argument, in the Markdown files and notebooks of the repository: each link to a file, and
each anchor in it. With the folder of a built site, in its pages too: each link and anchor, and
that no page loads anything from a network.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("*.md", "docs/**/*.md", "benchmarks/*.md", "tutorial/*.md", "tutorial/*.ipynb")

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(
    r"(!?\[(?:[^\[\]\\]|\\.|\[[^\[\]]*\](?:\([^()]*\))?)*\]\(<?)"  # [text](
    r"([^\s()<>]+)"
    r"(>?(?:\s+\"[^\"]*\")?\))"  # an optional title
)
DEFINITION = re.compile(r"^( {0,3}\[[^\]\n]+\]:\s+)(\S+)()", re.MULTILINE)
HTML = re.compile(r"""(<(?:a|img|source|video)\b[^>]*?\b(?:href|src)=["'])([^"']+)(["'])""")


@dataclass(frozen=True)
class Link:
    """A link in a Markdown text; lines are counted from 1."""

    target: str
    line: int


def is_elsewhere(target: str) -> bool:
    """Whether a link leads out: to another host, to a mail address."""
    return bool(urlsplit(target).scheme) or target.startswith("//")


def joined(folder: PurePosixPath, path: str) -> str:
    """The file of the repository that a relative link in a folder means."""
    return os.path.normpath(str(folder / unquote(path))).replace(os.sep, "/")


def relative(place: str, page: str) -> str:
    """A link from a page to another place of the site."""
    return os.path.relpath(place, os.path.dirname(page) or ".").replace(os.sep, "/")


def fence_around(text: str) -> str:
    """Backticks that no line of a text closes."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    return "`" * (longest + 1)


def with_targets(markdown: str, change: Callable[[str], str]) -> str:
    """A Markdown text with the target of each link changed; code stays as it is."""
    return "".join(
        part if is_code else _changed(part, change) for part, is_code in _by_code(markdown)
    )


def links(markdown: str) -> list[Link]:
    """All links of a Markdown text, pictures included; what stands in code is none."""
    collected: list[Link] = []
    line = 1
    for part, is_code in _by_code(markdown):
        if not is_code:
            prose = _without_inline_code(part)
            for pattern in (LINK, DEFINITION, HTML):
                for match in pattern.finditer(prose):
                    target = part[match.start(2) : match.end(2)]
                    collected.append(Link(target, line + part.count("\n", 0, match.start(2))))
                    if pattern is LINK and match[1].startswith("[!["):
                        inner = LINK.search(part, match.start() + 1)
                        if inner is not None:
                            collected.append(Link(inner[2], line))
        line += part.count("\n")
    return collected


def _changed(part: str, change: Callable[[str], str]) -> str:
    for pattern in (LINK, DEFINITION, HTML):
        prose = _without_inline_code(part)
        pieces, end = [], 0
        for match in pattern.finditer(prose):
            before = part[end : match.start(2)]
            if pattern is LINK and match[1].startswith("[!["):  # a picture that is a link
                before = _changed(before + "\0)", change).removesuffix("\0)")
            pieces += [before, change(part[match.start(2) : match.end(2)])]
            end = match.end(2)
        part = "".join([*pieces, part[end:]])
    return part


def _without_inline_code(part: str) -> str:
    """The same length, with code inside brackets kept and other code blanked where it could be
    read as a link."""
    return CODE.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), part)


def _by_code(markdown: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, each with whether it is a block of code."""
    lines: list[str] = []
    fence = ""
    for line in markdown.splitlines(keepends=True):
        match = FENCE.match(line)
        if fence:
            lines.append(line)
            if match and match[1].startswith(fence) and not line.strip().strip(fence[0]):
                yield "".join(lines), True
                lines, fence = [], ""
        elif match:
            yield "".join(lines), False
            lines, fence = [line], match[1]
        else:
            lines.append(line)
    yield "".join(lines), bool(fence)


# in the repository ------------------------------------------------------------------------------


def sources(root: Path = ROOT) -> list[Path]:
    """The files whose links are checked."""
    return sorted({path for pattern in SOURCES for path in root.glob(pattern)})


def text_of(path: Path) -> str:
    """The Markdown of a file; of a notebook, that of its cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def slug(heading: str) -> str:
    """The anchor of a heading, as code hosts make it."""
    words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    words = re.sub(r"<[^>]*>|[`*]|(?<!\w)_|_(?!\w)", "", words)
    return re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")


def anchors(markdown: str) -> set[str]:
    """The anchors of a Markdown text: its headings and the ids written in HTML."""
    collected: dict[str, int] = {}
    ids: set[str] = set()
    for part, is_code in _by_code(markdown):
        if is_code:
            continue
        for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*\s*$", part, re.MULTILINE):
            name = slug(heading)
            count = collected.get(name, 0)
            collected[name] = count + 1
            ids.add(f"{name}-{count}" if count else name)
        ids |= set(re.findall(r"""<\w+[^>]*\b(?:id|name)=["']([^"']+)["']""", part))
    return ids


def broken_sources(root: Path = ROOT) -> list[str]:
    """The links of the repository's Markdown that lead nowhere, each with its place."""
    broken = []
    for path in sources(root):
        name = path.relative_to(root)
        for link in links(text_of(path)):
            if is_elsewhere(link.target):
                continue
            file, _, anchor = link.target.partition("#")
            target = (path.parent / unquote(file)).resolve() if file else path
            if not target.exists():
                broken.append(f"{name}:{link.line}: {link.target}: there is no such file")
            elif root.resolve() not in (target.resolve(), *target.resolve().parents):
                broken.append(f"{name}:{link.line}: {link.target}: outside of the repository")
            elif (
                anchor
                and target.suffix in (".md", ".ipynb")
                and unquote(anchor) not in anchors(text_of(target))
            ):
                broken.append(f"{name}:{link.line}: {link.target}: no heading has this anchor")
    return broken


# in the site -----------------------------------------------------------------------------------

LOADED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src", "srcdoc"),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "input": ("src",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}
NOT_LOADED = {"canonical", "alternate", "next", "prev", "author", "license"}
CSS_ADDRESS = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


@dataclass
class SitePage(HTMLParser):
    """What a page of the site leads to, loads, and can be led to."""

    ids: set[str] = field(default_factory=set)
    leads: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    in_style: bool = False

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.leads.append(values["href"])
        if tag == "link" and not NOT_LOADED & set(values.get("rel", "").split()):
            self.loads.append(values.get("href", ""))
        for name in LOADED.get(tag, ()):
            if name in values:
                self.loads.append(values[name].split()[0] if name == "srcset" else values[name])
        self.loads += _addresses(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.loads += _addresses(data)


def _addresses(css: str) -> list[str]:
    return [first or second for first, second in CSS_ADDRESS.findall(css)]


def broken_site(site: Path) -> list[str]:
    """What is wrong with the links of a built site, each with its page."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        page = SitePage()
        page.feed(path.read_text(encoding="utf-8"))
        pages[path.resolve()] = page
    broken = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for target in page.loads:
            if target.startswith(("data:", "#")) or not target:
                continue
            if is_elsewhere(target):
                broken.append(f"{name}: loads {target} from a network")
            elif not (path.parent / unquote(urlsplit(target).path)).exists():
                broken.append(f"{name}: loads {target}, which is not there")
        for target in page.leads:
            if is_elsewhere(target):
                continue
            parts = urlsplit(target)
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if place.is_dir():
                broken.append(f"{name}: {target} leads to a folder, which no file system opens")
            elif not place.exists():
                broken.append(f"{name}: {target}: there is no such page")
            elif (
                parts.fragment
                and place in pages
                and unquote(parts.fragment) not in pages[place].ids
            ):
                broken.append(f"{name}: {target}: that page has no such anchor")
    for path in sorted(site.rglob("*.css")):
        for target in _addresses(path.read_text(encoding="utf-8")):
            if is_elsewhere(target) and not target.startswith("data:"):
                broken.append(f"{path.relative_to(site)}: loads {target} from a network")
    if not pages:
        broken.append(f"{site}: there is no page")
    return broken


def main(arguments: list[str]) -> int:
    """Print what is broken; 1 where something is."""
    broken = broken_sources()
    checked = f"{len(sources())} files"
    if arguments:
        site = Path(arguments[0])
        broken += broken_site(site)
        checked += f" and {len(list(site.rglob('*.html')))} pages"
    print("\n".join(broken) if broken else f"Every link of {checked} leads somewhere.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
