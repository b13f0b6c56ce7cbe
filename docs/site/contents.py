"""What stands in the site, and where: its pages, their sources in the repository, the navigation.

The sources stay where a code host shows them. A page of the site is a Markdown file of ``docs/``,
a notebook of ``tutorial/``, one of a few other Markdown files, or is written by a function (the
reference, the equations). Files of code that a page links to become pages too, so that every link
leads somewhere without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import links
import notebooks
import reference

ROOT = Path(__file__).resolve().parents[2]

HOW_TO = ("verbs", "comparing", "watch", "record", "page", "plots", "worksheets", "costs")
"""Pages of ``docs/`` in the order in which they are best read; those not named here follow."""

CATALOGUES = ("compare", "museum", "layouts")
VERIFIED = ("docs/verification.md", "benchmarks/README.md", "benchmarks/RESULTS.md")
PROJECT = ("README.md", "docs/architecture.md", "CHANGELOG.md", "CONTRIBUTING.md")
ELSEWHERE = {"index", "questions", "equations", "verification", "architecture"}

MOVED = {
    "README.md": "readme.md",
    "benchmarks/README.md": "benchmarks/about.md",
    "tutorial/README.md": "tutorial/about.md",
}
"""A README is the first page of its folder to MkDocs, which may have one already."""

TITLES = {"readme.md": {"In one page": "readme.md"}}
"""Pages that the navigation calls otherwise than they call themselves."""

LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".yml": "yaml",
    ".tsv": "text",
    ".txt": "text",
    ".json": "json",
    ".sh": "bash",
    "Makefile": "make",
}
LONGEST = 120_000  # characters of a file of code that the site shows


@dataclass(frozen=True)
class Page:
    """One page: its place in the site, the file that it is made from, and how."""

    place: str
    source: str | None
    write: Callable[[], str]
    hidden: bool = False
    """Out of the navigation and of the search: a file of code that a page links to."""


@dataclass(frozen=True)
class Section:
    """One entry of the navigation with the pages below it."""

    title: str
    pages: tuple[Page, ...]


@dataclass(frozen=True)
class Contents:
    """All of the site, made from the files of one checkout."""

    root: Path = ROOT

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The navigation, from left to right; a section without pages is left out."""
        docs = self.root / "docs"
        named = {*HOW_TO, *CATALOGUES, *ELSEWHERE}
        further = sorted(path.stem for path in docs.glob("*.md") if path.stem not in named)
        tutorials = sorted((self.root / "tutorial").glob("*.ipynb"))
        recipes = sorted(
            (docs / "recipes").rglob("*.md"), key=lambda path: (path.stem not in INDEXES, path)
        )
        sections = (
            Section("Start", self._markdown(["docs/index.md"])),
            Section(
                "Tutorials",
                (
                    *self._markdown(["tutorial/README.md"]),
                    *(self._notebook(path) for path in tutorials),
                ),
            ),
            Section(
                "Questions",
                self._markdown(["docs/questions.md", *map(self._name, recipes)]),
            ),
            Section(
                "How to",
                self._markdown(f"docs/{name}.md" for name in (*HOW_TO, *further)),
            ),
            Section("Reference", self._reference()),
            Section("Equations", self._markdown(["docs/equations.md"])),
            Section("Catalogues", self._markdown(f"docs/{name}.md" for name in CATALOGUES)),
            Section("Evidence", self._markdown(VERIFIED)),
            Section("Project", self._markdown(PROJECT)),
        )
        return tuple(section for section in sections if section.pages)

    @cached_property
    def pages(self) -> tuple[Page, ...]:
        """Every page, those that only links lead to included."""
        shown = tuple(page for section in self.sections for page in section.pages)
        return (*shown, *self._linked_code(shown))

    @cached_property
    def places(self) -> dict[str, str]:
        """From a file of the repository to its page."""
        return {page.source: page.place for page in self.pages if page.source is not None}

    def navigation(self) -> list[dict[str, object]]:
        """As MkDocs takes it."""
        entries: list[dict[str, object]] = []
        for section in self.sections:
            places: list[object] = [TITLES.get(page.place, page.place) for page in section.pages]
            entries.append({section.title: places[0] if len(places) == 1 else places})
        return entries

    def relinked(self, markdown: str, page: Page) -> str:
        """The Markdown of a page, with links to files of the repository as links to pages."""
        if page.source is None:
            return markdown
        folder = PurePosixPath(page.source).parent

        def target(link: str) -> str:
            path, mark, anchor = link.partition("#")
            if not path or links.is_elsewhere(link):
                return link
            source = links.joined(folder, path)
            place = self.places.get(source) or self._asset(source)
            return links.relative(place, page.place) + mark + anchor

        return links.with_targets(markdown, target)

    def assets(self) -> tuple[str, ...]:
        """Files outside of ``docs/`` that pages show or offer: pictures, notebooks."""
        targets = {target for page in self.pages for target in self._targets(page)}
        return tuple(
            sorted(
                source
                for source in targets
                if source not in self.places
                and not source.startswith("docs/")
                and (self.root / source).is_file()
            )
        )

    # pages by kind -------------------------------------------------------------------------------

    def _markdown(self, sources: Iterable[str]) -> tuple[Page, ...]:
        return tuple(
            Page(
                MOVED.get(source, source.removeprefix("docs/")),
                source,
                (self.root / source).read_text,
            )
            for source in sources
            if (self.root / source).exists()
        )

    def _notebook(self, path: Path) -> Page:
        return Page(f"tutorial/{path.stem}.md", self._name(path), lambda: notebooks.markdown(path))

    def _reference(self) -> tuple[Page, ...]:
        return tuple(
            Page(f"reference/{name}.md", None, partial(str, text))
            for name, text in reference.pages().items()
        )

    def _linked_code(self, shown: Iterable[Page]) -> tuple[Page, ...]:
        sources = {page.source for page in shown}
        targets = sorted({target for page in shown for target in self._targets(page)} - sources)
        folders = [target for target in targets if (self.root / target).is_dir()]
        files = {target for target in targets if self._is_code(target)}
        for folder in folders:
            files |= {
                name
                for path in (self.root / folder).iterdir()
                if self._is_code(name := self._name(path))
            }
        pages = [Page(f"source/{name}.md", name, self._code_of(name)) for name in sorted(files)]
        for folder in folders:
            pages.append(Page(f"source/{folder}/index.md", folder, self._listing_of(folder)))
        return tuple(Page(p.place, p.source, p.write, hidden=True) for p in pages)

    def _code_of(self, name: str) -> Callable[[], str]:
        def write() -> str:
            path = self.root / name
            text = path.read_text(encoding="utf-8")
            language = LANGUAGES.get(path.suffix) or LANGUAGES.get(path.name, "text")
            fence = links.fence_around(text)
            return f"# `{name}`\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"

        return write

    def _listing_of(self, folder: str) -> Callable[[], str]:
        def write() -> str:
            directory = PurePosixPath(folder).name
            names = sorted(path.name for path in (self.root / folder).iterdir())
            lines = [
                f"- [`{name}`]({directory}/{name})"
                for name in names
                if f"{folder}/{name}" in self.places
            ]
            return "\n".join([f"# `{folder}/`", "", *lines, ""])

        return write

    def _is_code(self, name: str) -> bool:
        path = self.root / name
        return (
            path.is_file()
            and (path.suffix in LANGUAGES or path.name in LANGUAGES)
            and path.stat().st_size <= LONGEST
        )

    def _targets(self, page: Page) -> set[str]:
        """Files of the repository that a page leads to."""
        if page.source is None or (page.hidden and not page.place.endswith("/index.md")):
            return set()
        folder = PurePosixPath(page.source).parent
        return {
            links.joined(folder, link.target.partition("#")[0])
            for link in links.links(page.write())
            if not links.is_elsewhere(link.target) and not link.target.startswith("#")
        }

    def _asset(self, source: str) -> str:
        """Where a picture or another file stands in the site."""
        return source.removeprefix("docs/")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


INDEXES = ("index", "README")
