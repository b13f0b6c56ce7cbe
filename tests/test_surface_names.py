"""Names and labels of strangers: shown, and obeyed by no terminal, notebook or page."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_cli import run
from torch import nn
from verbs import CPU, Bench

import rnnscope as rs
from rnnscope._escaping import code, fenced, latex, markdown, printable, verbatim
from rnnscope._page.contents import MOST
from rnnscope.cells import apply, from_h, from_x, quantity, vector

OBEYED = "a\x1b[31mb\r\nc\u202ed\x9be\u2028f\x07"
ELEMENT = "<img src=x onerror=alert(1)>"
HOSTILE = OBEYED + ELEMENT + "`|$\\end{verbatim}](javascript:x)\"'&"
FILE = HOSTILE.replace("/", "")


def harmless(text: str) -> None:
    """Nothing that a terminal obeys is in the text, nor a line that a name began."""
    kinds = {sign: unicodedata.category(sign) for sign in set(text) - {"\n"}}
    assert not [sign for sign, kind in kinds.items() if kind in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert "\nc" not in text


class Elements(HTMLParser):
    """The elements of a page, and what its scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def tr(bench: Bench) -> rs.Trace:
    """Of a cell with a hostile name, from a file; its steps have hostile labels."""
    equations = {"h": apply("tanh", from_x("h") + from_h("h"))}
    cell = rs.Cell(HOSTILE, "h", equations, {"h": HOSTILE}, HOSTILE, HOSTILE)
    traced = rs.trace(rs.Recurrent(cell, 3, 4, **CPU), bench.x, labels=[HOSTILE] * 5)
    traced.save(bench.folder / "hostile.safetensors")
    loaded = rs.load_trace(bench.folder / "hostile.safetensors")
    assert (loaded.cell.name, loaded.labels[0][0]) == (HOSTILE, HOSTILE)
    return loaded


@pytest.fixture(scope="module")
def alien(bench: Bench) -> rs.Trace:
    """A trace of a kind that no file may name any more."""
    gru = bench.traces["gru"]
    copied = rs.Trace(gru.structure, gru.call, gru._snapshot, _opened(gru), gru._returned)
    copied.structure = dataclasses.replace(gru.structure, kind=HOSTILE)
    return copied


def _opened(tr: rs.Trace) -> Any:
    from rnnscope._opening.opening import Opened

    return Opened(dict(tr), tr._inputs, dict(tr.proofs), tr._opened_in, tr._masks)


def texts(tr: rs.Trace) -> Iterator[str]:
    """Everything that a trace prints in a terminal."""
    yield from (repr(tr), str(tr.structure), str(tr.shapes()))
    yield repr(tr.gradients(h_n=torch.ones_like(tr.h_n)))
    for at in ({"time": 0}, {}):
        yield str(tr.explain(batch=0, unit=0, **at))


def test_what_is_printed_is_shown_and_not_obeyed(tr: rs.Trace, alien: rs.Trace) -> None:
    for traced in (tr, alien):
        for text in texts(traced):
            harmless(text)
        assert r"a\x1b[31mb\r\nc\u202ed\x9be\u2028f\x07" in repr(traced)


def test_notebooks_get_no_element_of_a_name(tr: rs.Trace, alien: rs.Trace) -> None:
    for traced in (tr, alien):
        assert set(Elements(traced._repr_html_()).tags) <= {
            *("div", "p", "b", "pre", "table", "thead", "tbody", "tr", "th", "td")
        }
        assert html.escape(ELEMENT) in traced._repr_html_()
        shown = [traced.explain(batch=0, unit=0, **at).markdown() for at in ({"time": 0}, {})]
        for text in (*shown, traced.shapes().markdown()):
            harmless(text)
            outside = re.sub(r"(?s)(`+)(?!`).+?(?<!`)\1(?!`)", "", text)
            assert "<img" not in outside
            assert not re.search(r"(?<!\\)\]\(javascript", outside)


def test_latex_is_not_left(tr: rs.Trace) -> None:
    for at in ({"time": 0}, {}):
        text = tr.explain(batch=0, unit=0, **at).latex()
        harmless(text)
        assert text.count(r"\end{verbatim}") == text.count(r"\begin{verbatim}")
        assert r"$\end" not in text


def test_the_page_has_no_element_of_a_name_and_holds_it_as_it_is(
    tr: rs.Trace, alien: rs.Trace
) -> None:
    for traced in (tr, alien):
        page = traced.view(labels=[HOSTILE + "</script>"] * 5)
        assert "img" not in Elements(page.html).tags
        assert page.html.count("<script") == page.html.count("</script>") == 2
        data = json.loads(page.html.split('id="record">')[1].split("</script>")[0])
        assert data["labels"][0][0] == HOSTILE + "</script>"
        assert set(Elements(page._repr_html_()).tags) == {"iframe"}


def refusals(tr: rs.Trace, bench: Bench) -> dict[str, Callable[[], Any]]:
    """Calls that name something that is not there."""
    x = from_x("h")
    return {
        "brackets": lambda: tr[HOSTILE],
        "sel": lambda: tr.sel("h", direction=HOSTILE),
        "explain": lambda: tr.explain(HOSTILE, batch=0, time=0, unit=0),
        "edit": lambda: tr.rerun(rs.Edit(HOSTILE, to=1.0)),
        "weights": lambda: tr.rerun(weights={HOSTILE: torch.zeros(1)}),
        "gradients": lambda: tr.gradients(**{HOSTILE: torch.zeros(1)}),
        "jacobian": lambda: tr.jacobian("h", HOSTILE, batch=0),
        "memory": lambda: tr.memory(HOSTILE),
        "record": lambda: rs.trace(bench.gru, bench.x, record=[HOSTILE]),
        "attribute": lambda: getattr(tr, HOSTILE + "_n"),
        "load": lambda: rs.load(HOSTILE),
        "load_trace": lambda: rs.load_trace(HOSTILE),
        "save": lambda: tr.save("/nowhere/" + HOSTILE),
        "view": lambda: tr.view("/nowhere/" + HOSTILE),
        "layer": lambda: rs.load(bench.npz, layer=HOSTILE),
        "layout": lambda: rs.load(bench.npz, layout=HOSTILE),
        "function": lambda: apply(HOSTILE, x),
        "cell": lambda: rs.Cell(HOSTILE, "h", {"n": x}),
        "gate": lambda: rs.Cell("c", (HOSTILE,), {"h": from_x(HOSTILE)}),
        "vector": lambda: rs.Recurrent(rs.Cell("c", "h", {"h": x * vector(HOSTILE)}), 1, 1),
        "quantity": lambda: rs.Cell("c", "h", {"h": quantity(HOSTILE)}),
        "axes": lambda: rs.compare(bench.gru, bench.gru, bench.x, axes=HOSTILE),
        "path": lambda: rs.compare(HOSTILE, bench.gru, bench.x),
    }


def test_errors_show_names_and_do_not_obey_them(tr: rs.Trace, bench: Bench) -> None:
    for what, call in refusals(tr, bench).items():
        with pytest.raises((rs.RnnscopeError, AttributeError)) as told:
            call()
        harmless(str(told.value))
        assert r"\x1b[31m" in str(told.value), what


def test_modules_and_candidates_with_hostile_names_are_shown(bench: Bench) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(HOSTILE, bench.gru)

        def forward(self, x: torch.Tensor) -> Any:
            return self._modules[HOSTILE](x)

    Model.__name__ = Model.__qualname__ = HOSTILE
    model = Model()
    with rs.watch(model) as seen:
        model(bench.x)
    harmless(repr(seen))
    for call in (lambda: seen["x"], lambda: seen.trace, lambda: rs.trace(model, bench.x)):
        with pytest.raises(rs.RnnscopeError) as told:
            call()
        harmless(str(told.value))

    def raises(x: Any, h: Any = None) -> Any:
        raise ValueError(HOSTILE)

    raises.__name__ = raises.__qualname__ = HOSTILE
    with pytest.raises(rs.CandidateError) as raised:
        rs.compare(raises, bench.gru, bench.x, effort=0)
    harmless(str(raised.value))

    def other(x: Any, h: Any = None) -> Any:
        return {"output": bench.gru(x)[0] * 2, HOSTILE: x}

    harmless(str(rs.compare(other, bench.gru, bench.x, effort=0)))


def test_the_command_shows_names_in_files_and_does_not_obey_them(
    bench: Bench, tmp_path: Path
) -> None:
    state = {f"{HOSTILE}.{name}": value for name, value in bench.gru.state_dict().items()}
    files = [tmp_path / name for name in ("s.safetensors", "o.onnx", "n.npz", FILE + ".pt")]
    save_file(state, files[0])
    rs.save({HOSTILE: bench.gru}, files[1])
    rs.save({HOSTILE: bench.gru}, files[2])
    torch.save(state, files[3])
    for file in files:
        for form in ("text", "markdown", "json"):
            result = run("show", file, "--format", form)
            harmless(result.stdout + result.stderr)
            if form == "json":
                name = json.loads(result.stdout)["layers"][0]["name"]
                assert name == HOSTILE or file.suffix == ".onnx"
        for words in (
            ("convert", file, tmp_path / "out.npz"),
            ("explain", "1,2,3", "--weights", file, "--time", "0", "--unit", "0"),
            ("show", file, "--layer", HOSTILE + "!"),
            ("view", "1,2,3", "--weights", file, "-o", tmp_path / (FILE + ".html")),
        ):
            result = run(*words)
            harmless(result.stdout + result.stderr)
    for words in (
        ("explain", HOSTILE),
        ("explain", "3", "--name", HOSTILE),
        ("explain", "3", "--set", HOSTILE),
        ("explain", "--input", HOSTILE),
        ("view", "3", "-o", "/nowhere/" + HOSTILE),
        ("show", HOSTILE),
        (HOSTILE,),
        ("shapes", "--lengths", HOSTILE),
        ("explain", "-" + HOSTILE),
    ):
        result = run(*words)
        assert result.exit_code == 2
        harmless(result.stdout + result.stderr)


def test_writing_out_is_the_same_everywhere() -> None:
    assert printable("\ud800\ufeff\t\u2066") == r"\ud800\ufeff\t\u2066"
    plain = "naïve 語\u3000👩\u200d👧 \u0646\u200c\u0645 σ ∂"  # signs that letters need stay
    assert printable(plain) == plain
    assert markdown("<b>&`$\\*_|") == "&#60;b&#62;&#38;&#96;&#36;&#92;\\*\\_\\|"
    assert markdown("[a](b) [c][d] x[0]") == r"[a\](b) [c\][d] x[0]"
    assert (code("`"), code("``x")) == ("`` ` ``", "``` ``x ```")
    assert fenced("a\n```\nb") == "````\na\n```\nb\n````"
    assert verbatim(r"\end{verbatim}").count(r"\end{verbatim}") == 1
    assert latex("\n\\x") == r"\textbackslash{}n\textbackslash{}x"


# the size of a page ------------------------------------------------------------------------------


def test_a_page_is_never_larger_than_it_says() -> None:
    tr = rs.trace(nn.RNN(1, 1, **CPU), torch.zeros(4, 6, 1, **CPU))
    page = tr.view(labels=["é" * 500_000] * 4)  # 4 MB for each sequence
    assert len(page.html.encode()) <= MOST
    assert "Sequences 5 to 5 of the batch are left out" in page.html
    with pytest.raises(rs.ShapeError, match="the most is 20"):
        tr.view(labels=["<" * 1_000_000] * 4)  # each sign becomes six
    words = {"h": "w" * MOST}
    cell = rs.Cell("c", "h", {"h": apply("tanh", from_x("h"))}, words)
    with pytest.raises(rs.ShapeError, match="the most is 20"):
        rs.trace(rs.Recurrent(cell, 1, 1, **CPU), torch.zeros(2, 1, **CPU)).view()
