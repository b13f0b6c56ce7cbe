"""The site: every page is reached, every link leads somewhere, every public name is explained."""

from __future__ import annotations

import doctest
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import OWN, Page
from markdown_it import MarkdownIt
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "docs" / "site")]
import contents  # noqa: E402
import docstrings  # noqa: E402
import equations  # noqa: E402
import links  # noqa: E402
import notebooks  # noqa: E402
import reference  # noqa: E402

SITE = contents.Contents()
NAMES = reference.public_names()


# links ---------------------------------------------------------------------------------------


def test_every_link_in_the_repository_leads_somewhere() -> None:
    assert links.broken_sources() == []


BROKEN = {
    "[a](missing.md)": "there is no such file",
    "[a](there.md#nowhere)": "no heading has this anchor",
    "[a `b]` c](missing.md)": "there is no such file",
    "![picture](missing.png)": "there is no such file",
    "[![picture](there.md)](missing.md)": "there is no such file",
    "[![picture](missing.png)](there.md)": "there is no such file",
    '<img src="missing.png">': "there is no such file",
    "[a]: missing.md": "there is no such file",
    "```\ncode\n```\n[a](missing.md)": "there is no such file",
    "[a](../outside.md)": "outside of the repository",
}
WHOLE = (
    "[a](there.md)",
    "[a](there.md#one-heading-with-code)",
    "[a](there.md#one-heading-with-code-1)",
    "[a](#here)\n\n# Here",
    "[a](https://example.org/missing)",
    "`[a](missing.md)`",
    "```\n[a](missing.md)\n```",
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "outside.md").write_text("outside", encoding="utf-8")
    root = tmp_path / "root"
    root.mkdir()
    heading = "# One heading, with `code`\n"
    (root / "there.md").write_text(heading + heading, encoding="utf-8")
    return root


@pytest.mark.parametrize(("text", "said"), BROKEN.items())
def test_a_broken_link_is_told(repository: Path, text: str, said: str) -> None:
    (repository / "page.md").write_text(text, encoding="utf-8")
    (broken,) = links.broken_sources(repository)
    assert broken.startswith("page.md:")
    assert broken.endswith(said)


@pytest.mark.parametrize("text", WHOLE)
def test_a_link_that_leads_somewhere_is_not_told(repository: Path, text: str) -> None:
    (repository / "page.md").write_text(text, encoding="utf-8")
    assert links.broken_sources(repository) == []


PAGES_WITH_FAULTS = {
    '<script src="https://host.example/x.js"></script>': "loads https://host.example/x.js from",
    '<link rel="stylesheet" href="//host.example/x.css">': "loads //host.example/x.css from",
    '<link rel="preconnect" href="https://fonts.example">': "loads https://fonts.example from",
    '<img src="https://host.example/x.png">': "loads https://host.example/x.png from",
    '<p style="background: url(https://host.example/x)">': "loads https://host.example/x from",
    "<style>@import 'https://host.example/x.css'</style>": "loads https://host.example/x.css from",
    '<script src="missing.js"></script>': "loads missing.js, which is not there",
    '<a href="missing.html">a</a>': "there is no such page",
    '<a href="#missing">a</a>': "no such anchor",
    '<a href=".">a</a>': "leads to a folder",
}


@pytest.mark.parametrize(("html", "said"), PAGES_WITH_FAULTS.items())
def test_what_a_built_page_must_not_do_is_told(tmp_path: Path, html: str, said: str) -> None:
    (tmp_path / "index.html").write_text(html, encoding="utf-8")
    (broken,) = links.broken_site(tmp_path)
    assert said in broken


def test_links_out_of_a_page_are_no_loads(tmp_path: Path) -> None:
    html = '<h1 id="a">a</h1><a href="https://host.example">out</a><a href="index.html#a">in</a>'
    (tmp_path / "index.html").write_text(html, encoding="utf-8")
    assert links.broken_site(tmp_path) == []


# pages ---------------------------------------------------------------------------------------


def test_the_navigation_has_every_page_once() -> None:
    shown = [page for section in SITE.sections for page in section.pages]
    sources = [page.source for page in shown if page.source is not None]
    files = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "tutorial").glob("*.ipynb")]
    files += [
        path for folder in ("", "benchmarks", "tutorial") for path in (ROOT / folder).glob("*.md")
    ]
    assert sorted(sources) == sorted(path.relative_to(ROOT).as_posix() for path in files)
    places = [page.place for page in SITE.pages]
    assert len(places) == len(set(places))
    assert sorted(places_of(SITE.navigation())) == sorted(page.place for page in shown)


def places_of(navigation: Any) -> Iterator[str]:
    for entry in navigation:
        (value,) = entry.values() if isinstance(entry, dict) else [entry]
        if isinstance(value, str):
            yield value
        else:
            yield from places_of(value)


def test_a_page_or_tutorial_that_is_added_is_in_the_navigation(tmp_path: Path) -> None:
    for name in ("docs/index", "docs/questions", "docs/novel", "docs/recipes/int8", "README"):
        path = tmp_path / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# Title\n", encoding="utf-8")
    (tmp_path / "tutorial").mkdir()
    for name in ("02_b", "10_c", "01_a"):
        (tmp_path / "tutorial" / f"{name}.ipynb").write_text('{"cells": []}', encoding="utf-8")
    entries = {
        title: value
        for entry in contents.Contents(tmp_path).navigation()
        for title, value in entry.items()
    }
    assert entries["Start"] == "index.md"
    assert entries["Tutorials"] == [f"tutorial/{name}.md" for name in ("01_a", "02_b", "10_c")]
    assert entries["Questions"] == ["questions.md", "recipes/int8.md"]
    assert entries["How to"] == "novel.md"
    assert entries["Project"] == {"In one page": "readme.md"}
    assert "Catalogues" not in entries


def test_links_between_files_become_links_between_pages() -> None:
    pages = {page.source: page for page in SITE.pages}
    text = (
        "[a](docs/verbs.md#x) ![b](docs/page.png) [c](tutorial/01_basic_rnn.ipynb) `[d](docs/e.md)`"
    )
    assert SITE.relinked(text, pages["README.md"]) == (
        "[a](verbs.md#x) ![b](page.png) [c](tutorial/01_basic_rnn.md) `[d](docs/e.md)`"
    )
    text = "[a](../tests/museum/mlx_3249.py) [b](https://example.org) [c](#here)"
    assert SITE.relinked(text, pages["docs/museum.md"]) == (
        "[a](source/tests/museum/mlx_3249.py.md) [b](https://example.org) [c](#here)"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "tutorial").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_is_shown_whole(path: Path) -> None:
    page = notebooks.markdown(path)
    place = 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        pieces = ["".join(cell["source"]).strip()]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            picture = "".join(data.get("image/png", "")).replace("\n", "")
            words = "".join(output.get("text", "")) or "".join(data.get("text/plain", ""))
            pieces.append(picture or words.strip())
        for piece in pieces:
            for line in piece.splitlines():  # in the order of the notebook
                place = page.index(re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip(), place)


def test_a_notebook_that_no_page_can_show_is_refused(tmp_path: Path) -> None:
    output = {"output_type": "display_data", "data": {"text/html": ["<b>bold</b>"]}}
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["show()"], "outputs": [output]},
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.ipynb, cell 1 shows HTML alone; let it print text"):
        notebooks.markdown(path)
    cells = [{"cell_type": "markdown", "source": ["No title"]}]
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    with pytest.raises(ValueError, match="must begin with a cell of text"):
        notebooks.markdown(path)


START = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_the_start_page_names_what_there_is() -> None:
    from rnnscope._cli.commands import app

    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", START, re.DOTALL):
        exec(block, names)
    anchors = reference.written_anchors()
    commands = {f"rnnscope {c.name or c.callback.__name__}" for c in app.registered_commands}
    code = re.findall(r"`((?:rs|tr|rnnscope)[. ][^`]+)`", START)
    assert len(code) > 20
    for text in code:
        if text.startswith("rnnscope"):
            assert " ".join(text.split()[:2]) in commands
        else:
            assert re.match(r"[\w.]+", text)[0] in anchors, text  # type: ignore[index]
    rows = re.findall(r"^\|(?! The question|---)(.*)\|$", START, re.MULTILINE)
    assert all("](" in row for row in rows), "each question leads to a page"


# reference -----------------------------------------------------------------------------------

REFERENCE = reference.pages()


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_stands_in_the_reference_with_an_example(name: str) -> None:
    text = REFERENCE[reference.places()[name]]
    section = re.search(
        rf"(^::: rnnscope\.{name}$|\{{ #rnnscope\.{name} \}}|<a id=\"rnnscope\.{name}\">)"
        r".*?(?=^## |^::: |^<a |\Z)",
        text,
        re.MULTILINE | re.DOTALL,
    )
    assert section is not None, f"{name} is not in the reference"
    example = ">>> " in section[0] or ">>> " in (inspect.getdoc(reference.value(name)) or "")
    assert example, f"the docstring of {name} has no example"
    homes = (name, f"errors.{name}", f"cells.{name}")
    assert any(f".md#rnnscope.{home})" in REFERENCE["index"] for home in homes)


def test_a_public_name_without_a_place_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import rnnscope

    monkeypatch.setattr(rnnscope, "__all__", [*rnnscope.__all__, "novel"])
    with pytest.raises(LookupError, match=r"without a place: \['novel'\]"):
        reference.pages()


@pytest.mark.parametrize("page", [name for name, text in REFERENCE.items() if ">>> " in text])
def test_the_examples_that_the_reference_writes_run(page: str) -> None:
    for k, block in enumerate(re.findall(r"```pycon\n(.*?)```", REFERENCE[page], re.DOTALL)):
        example = doctest.DocTestParser().get_doctest(block, {}, f"{page} {k}", None, 0)
        result = doctest.DocTestRunner(verbose=False).run(example)
        assert (result.failed, result.attempted > 0) == (0, True), block


def test_every_command_and_its_options_stand_in_the_reference() -> None:
    from rnnscope._cli.commands import app

    text = REFERENCE["command-line"]
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        assert f"## `rnnscope {name}`" in text
    assert "`--bidirectional`" in text


def test_a_docstring_becomes_markdown() -> None:
    text = "What ``f`` does.\n\n>>> f(\n...     2)\n4\n\nRaises ``ValueError``.\n\n>>> f(3)\n9"
    assert docstrings.as_markdown(text) == (
        "What `f` does.\n\n\n```pycon\n>>> f(\n...     2)\n4\n```\n\n\n"
        "Raises `ValueError`.\n\n\n```pycon\n>>> f(3)\n9\n```"
    )


# equations -----------------------------------------------------------------------------------


def test_the_page_of_equations_is_current() -> None:
    """To renew: python docs/equations.py."""
    assert equations.PAGE.read_text(encoding="utf-8") == equations.page()


def step_of(text: str, values: dict[str, Any]) -> dict[str, Any]:
    """The quantities of one step, computed from equations as they are printed."""
    for line in text.splitlines():
        left, right = line.split(" = ")
        right = re.sub(r"(W_\w+) \(", r"\1 @ (", right)
        right = re.sub(r"(W_\w+) (\w)", r"\1 @ \2", right)
        right = right.replace("_(t-1)", "_before").replace("⊙", "*").replace("σ", "sigmoid")
        values[left] = eval(right, {}, values)
    return values


LAYERS = {
    "RNN_TANH": (lambda: nn.RNN(3, 4), "h"),
    "RNN_RELU": (lambda: nn.RNN(3, 4, nonlinearity="relu"), "h"),
    "GRU": (lambda: nn.GRU(3, 4), "rzn"),
    "LSTM": (lambda: nn.LSTM(3, 4), "ifgo"),
    "LSTM_PROJECTED": (lambda: nn.LSTM(3, 4, proj_size=2), "ifgo"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_printed_equations_are_those_of_torch(name: str) -> None:
    """Each step of the layer, from the text on the page and the layer's own weights."""
    make, gates = LAYERS[name]
    layer = make().double()
    text = equations.page().split(f"`rs.cells.{name}`;")[1]
    printed = re.search(r"```text\n(.*?)\n```", text, re.DOTALL)
    assert printed is not None
    x = torch.randn(5, 3, dtype=torch.float64)
    values: dict[str, Any] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
    for side in "ih":
        W, b = getattr(layer, f"weight_{side}h_l0"), getattr(layer, f"bias_{side}h_l0")
        for gate, rows, bias in zip(gates, W.chunk(len(gates)), b.chunk(len(gates)), strict=True):
            values |= {f"W_{side}{gate}": rows, f"b_{side}{gate}": bias}
    width = 4
    if "PROJECTED" in name:
        values["W_hr"], width = layer.weight_hr_l0, 2
    h, c = x.new_zeros(width), x.new_zeros(4)
    for x_t, expected in zip(x, layer(x)[0], strict=True):
        step = step_of(printed[1], values | {"x_t": x_t, "h_before": h, "c_before": c})
        h, c = step["h_t"], step.get("c_t", c)
        torch.testing.assert_close(h, expected, rtol=0, atol=1e-14)


# the built site ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    pytest.importorskip("mkdocs", reason="make docs installs what the site is built with")
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(built: Path) -> None:
    assert links.broken_site(built) == []


@pytest.mark.slow
def test_every_public_name_has_its_place_and_an_example_in_the_site(built: Path) -> None:
    texts = {path.stem: path.read_text("utf-8") for path in (built / "reference").glob("*.html")}
    for name, page in reference.places().items():
        place = f'id="rnnscope.{name}"'
        assert place in texts[page], name
        before, section = texts[page].split(place)
        pieces = section.split("<h2")
        section = pieces[0] if before.endswith("<h2 ") else pieces[0] + pieces[1]
        assert "&gt;&gt;&gt; " in section, name
        if inspect.isroutine(reference.value(name)):  # not the module of the same name
            assert f'>{name.rpartition(".")[2]}</span><span class="p">(' in section, name
            assert "<h3" not in section, name
    for page in texts.values():
        assert "``" not in re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL)


SEEN = ("h1", "h2", "h3", "h4", "li", "ol", "ul", "table", "tr", "td", "pre", "img", "strong")


@pytest.mark.slow
def test_a_page_has_the_parts_that_a_code_host_shows(built: Path) -> None:
    """Lists, tables and blocks of code are those of CommonMark, which code hosts follow."""
    commonmark = MarkdownIt("commonmark", {"html": True}).enable("table")
    for page in SITE.pages:
        if page.source is None or page.hidden:
            continue
        html = (built / page.place).with_suffix(".html").read_text(encoding="utf-8")
        article = html[html.index("<article") : html.index("</article>")]
        counts = [
            {tag: len(re.findall(rf"<{tag}\b", text)) for tag in SEEN}
            for text in (article, commonmark.render(page.write()))
        ]
        assert counts[0] == counts[1], page.source


@pytest.fixture
def visit(browser: Any, built: Path) -> Iterator[Any]:
    """A function: the place of a page → it, open. Afterwards nothing was asked of a network, and
    the console is empty."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    yield lambda place: Page(browser, built / place).open()
    said = browser.get_log("browser")
    asked = []
    for entry in browser.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            asked.append(event["params"]["request"]["url"])
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert said == []
    assert [url for url in asked if not url.startswith(OWN)] == []


@pytest.mark.slow
def test_the_search_works_without_a_server(visit: Any) -> None:
    page = visit("tutorial/01_basic_rnn.html")
    page.one("input.md-search__input").click()
    page.one("input.md-search__input").send_keys("peephole")
    wait_for(lambda: "matching document" in page.text(".md-search-result__meta"))
    addresses = [a.get_attribute("href") for a in page.all(".md-search-result__link")]
    equations_page, *_ = (address for address in addresses if "/equations.html" in address)
    page.browser.get(equations_page)
    assert "peephole" in page.text("article")


def wait_for(true: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(None, 60).until(lambda _: true())  # type: ignore[type-var]


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_its_window(visit: Any, width: int, scheme: str) -> None:
    """No page is wider than the window, no formula is empty, and text stands out from the page."""
    too_wide = []
    for section in SITE.sections:
        for entry in section.pages:
            page = visit(f"{entry.place.removesuffix('.md')}.html")
            page.size(width)
            page.media(features=[{"name": "prefers-color-scheme", "value": scheme}])
            if page.js("return document.documentElement.scrollWidth > innerWidth"):
                too_wide.append(entry.place)
            empty = (
                "return [...document.querySelectorAll('math')].filter(m => !m.closest('details')"
            )
            assert page.js(f"{empty} && m.getBoundingClientRect().width < 4).length") == 0
            dark = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] < 128"
            assert page.js(dark) == (scheme == "dark"), entry.place
    assert too_wide == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_found_by_axe_in_the_site(visit: Any, scheme: str) -> None:
    package = pytest.importorskip("axe_playwright_python", reason="axe is not installed")
    axe = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    serious = []
    # the theme lets the keyboard reach wide code once it is scrolled into view
    rules = {"rules": {"scrollable-region-focusable": {"enabled": False}}, "preload": False}
    for place in ("index", "verbs", "tutorial/03_an_lstm_that_counts"):
        page = visit(f"{place}.html")
        page.media(features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.js(axe)
        for violation in page.browser.execute_async_script(
            "const [rules, done] = arguments; axe.run(rules).then((r) => done(r.violations));",
            rules,
        ):
            if violation["impact"] in ("serious", "critical"):
                serious.append((place, violation["id"], violation["nodes"][0]["html"]))
    assert serious == []
