"""Worksheets: solved here from their own text, in decimal arithmetic of the tests' own."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Context, Decimal, FloatOperation, Inexact, localcontext
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import Page
from test_cli import printed, refused, run

# a pupil with a pocket calculator ------------------------------------------------------------


def rounded(number: Decimal, digits: int) -> Decimal:
    """To so many decimals, a 5 away from zero."""
    with localcontext(prec=80):
        result = number.quantize(Decimal(10) ** -digits, rounding=ROUND_HALF_UP)
    return result or abs(result)


def tanh(a: Decimal) -> Decimal:
    with localcontext(prec=60):
        up, down = a.exp(), (-a).exp()
        return (up - down) / (up + down)


def sigmoid(a: Decimal) -> Decimal:
    with localcontext(prec=60):
        return 1 / (1 + (-a).exp())


FUNCTIONS = {"tanh": tanh, "σ": sigmoid, "relu": lambda a: max(a, Decimal(0))}


@dataclass
class Reader(HTMLParser):
    """The text of a page: its lines with what the boxes hold, its tables."""

    lines: list[str] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    key_starts: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        classes = (dict(attrs).get("class") or "").split()
        if tag in ("p", "h1", "h2", "h3", "div"):
            self.lines.append("")
        if "key" in classes:
            self.key_starts = len(self.lines)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1] += [""] * int(dict(attrs).get("colspan") or 1)
        if tag == "sub" and self.lines:
            self.lines[-1] += "_"
        self._cell = tag in ("td", "th") or (tag in ("sub", "wbr") and self._cell)
        if "blank" in classes:
            self.lines[-1] += "#"

    _cell = False

    def handle_data(self, data: str) -> None:
        data = data.replace("−", "-")
        if self.tables and self.tables[-1] and self._cell:
            self.tables[-1][-1][-1] += data
        elif self.lines:
            self.lines[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "table"):
            self._cell = False


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def number(text: str) -> Decimal:
    return Decimal(text.replace("−", "-"))


def calculate(text: str, known: dict[str, Decimal], digits: int) -> Decimal:
    """A formula of the sheet, each product, sum and function of which is rounded."""
    tokens = re.findall(r"#?-?\d+\.?\d*|[A-Za-zσ]\w*(?:\[\d+\])?|[()+×-]", text)
    place = 0

    def take() -> str:
        nonlocal place
        place += 1
        return tokens[place - 1]

    def here() -> str:
        return tokens[place] if place < len(tokens) else ""

    def total() -> Decimal:
        result, several = product(), False
        while here() in ("+", "-"):
            several = True
            result = result + product() if take() == "+" else result - product()
        return rounded(result, digits) if several else result

    def product() -> Decimal:
        result = factor()
        while here() == "×":
            take()
            result = rounded(result * factor(), digits)
        return result

    def factor() -> Decimal:
        token = take()
        if token == "(":
            result = total()
            assert take() == ")"
            return result
        if token in FUNCTIONS:
            assert take() == "("
            result = rounded(FUNCTIONS[token](total()), digits)
            assert take() == ")"
            return result
        if re.match(r"#?-?\d", token):
            return number(token.lstrip("#"))
        return known[token]

    # a - b: the sign belongs to the operation, not to the number
    tokens = [
        part
        for k, token in enumerate(tokens)
        for part in (
            ["-", token[1:]]
            if token.startswith("-")
            and len(token) > 1
            and k
            and tokens[k - 1] not in ("(", "+", "×")
            else [token]
        )
    ]
    result = total()
    assert place == len(tokens), text
    return result


def numbers_in(text: str) -> dict[str, Decimal]:
    """h_0 = 0, c_0 = [0, 0.5], x_1 = 3 as numbers by name."""
    known: dict[str, Decimal] = {}
    for name, written in re.findall(r"([a-z]_\d+) = (\[[^\]]*\]|-?[\d.]+)", text):
        values = [number(part) for part in written.strip("[]").split(",")]
        keys = [name] if len(values) == 1 else [f"{name}[{k}]" for k in range(len(values))]
        known |= dict(zip(keys, values, strict=True))
    return known


def solve(reader: Reader, digits: int) -> int:
    """Compute each line of the sheet and compare it with the same line of the key; how many boxes
    were compared."""
    first = reader.lines.index("Step by step\n")
    sheet, key = reader.lines[first : reader.key_starts], reader.lines[reader.key_starts :]
    tasks = [line for line in sheet if "#" in line or re.search(r"[hc]_\d+ = ", line)]
    answers = [line for line in key if "#" in line or re.search(r"[hc]_\d+ = ", line)]
    assert len(tasks) == len(answers)
    known: dict[str, Decimal] = {}
    below: dict[str, Decimal] = {}
    boxes, section = 0, 0
    outputs: dict[tuple[int, int, int], list[Decimal]] = {}
    for task, answer in zip(tasks, answers, strict=True):
        if "#" not in task:
            known, below = numbers_in(task), x_of(task, outputs)
            section += 1
            assert numbers_in(answer) == known
            continue
        name, *stages = (part.strip() for part in task.split(" = "))
        filled = [part.strip() for part in answer.split(" = ")][1:]
        result = calculate(stages[0], known | below, digits)
        for stage in filled:
            assert calculate(stage, known | below, digits) == result, (answer, result)
        assert filled[-1] == f"#{result}".replace("−", "-"), (answer, result)
        assert [re.sub(r"#-?[\d.]+", "#", stage) for stage in filled] == stages
        boxes += answer.count("#")
        known[name] = result
        if name.startswith("h_"):
            step = int(re.match(r"h_(\d+)", name)[1])  # type: ignore[index]
            outputs.setdefault((section, step, 0), []).append(result)
    return boxes


def x_of(start: str, outputs: dict[tuple[int, int, int], list[Decimal]]) -> dict[str, Decimal]:
    """What a further layer reads, by name: the h of the layer below, forward then reverse."""
    found = re.match(r".* is h_t of layer (\d+)(, forward)?", start)
    if found is None:
        return {}
    directions = 2 if found[2] else 1
    first = int(found[1]) * directions + 1
    steps = {step for section, step, _ in outputs if section == first}
    known = {}
    for step in steps:
        values = [value for d in range(directions) for value in outputs[first + d, step, 0]]
        names = (
            [f"x_{step}"] if len(values) == 1 else [f"x_{step}[{k}]" for k in range(len(values))]
        )
        known |= dict(zip(names, values, strict=True))
    return known


def made(tmp_path: Path, *words: str) -> Reader:
    printed("worksheet", *words, "-o", tmp_path / "sheet.html")
    return read((tmp_path / "sheet.html").read_text(encoding="utf-8"))


SHEETS = [
    "3 4 5",
    "3 4 5 --digits 2",
    "3 -4 5 --nonlinearity relu --bias",
    "3 4 5 --cell lstm",
    "3 4 5 --cell lstm --digits 2 --bias --seed 3",
    "3 4 5 --cell gru --bias --digits 4",
    "0.25,1 -1.5,2 --cell gru --hidden 2 --bias",
    "3 4 --layers 2 --bidirectional --hidden 2 --digits 2",
    "3 4 5 --layers 3 --bias",
    "3 4 --bidirectional --layers 2 --cell gru",
    "1 2 --cell lstm --hidden 3 --proj-size 2",
    "3 4 --cell lstm --initial h_0=0.5 --initial c_0=-1.25 --bias",
    "3 4 --cell lstm_peephole --bias",
    "3 4 --cell gru_reset_before --hidden 2",
    "3 4 5 --lengths 2 --bidirectional",
    "300 -400 --set weight_ih_l0=12.5",
]


@pytest.mark.parametrize("words", SHEETS)
def test_a_sheet_solved_from_its_own_text_gives_the_key(tmp_path: Path, words: str) -> None:
    digits = int(re.search(r"--digits (\d)", words + " --digits 3")[1])  # type: ignore[index]
    reader = made(tmp_path, *words.split())
    assert solve(reader, digits) >= 8


def test_the_pupil_sees_a_wrong_digit(tmp_path: Path) -> None:
    reader = made(tmp_path, "3", "4", "5", "--cell", "lstm")
    place = next(k for k in range(reader.key_starts, len(reader.lines)) if "h_2" in reader.lines[k])
    line = reader.lines[place]
    assert "#" in line
    for wrong in (
        line[:-1] + str((int(line.rstrip()[-1]) + 1) % 10),
        line.replace("#0.", "#0.1", 1),
    ):
        reader.lines[place] = wrong
        with pytest.raises(AssertionError):
            solve(reader, 3)


# formulas written out here, from the numbers of the table of weights --------------------------


def states_by_formula(cell: str, rows: dict[str, list[Decimal]], xs: list[int], digits: int) -> Any:
    """h and c of one unit, from PyTorch's documentation; rows are W_i, W_h, b_i, b_h by gate."""

    def r(value: Decimal) -> Decimal:
        return rounded(value, digits)

    def parts(gate: str, x: int, h: Decimal) -> tuple[Decimal, ...]:
        w, u, b, c = rows[gate]
        return r(w * x), b, r(u * h), c

    h = c = Decimal(0)
    for x in xs:
        if cell == "rnn":
            h = r(tanh(sum(parts("h", x, h))))
        elif cell == "lstm":
            i, f, o = (r(sigmoid(sum(parts(gate, x, h)))) for gate in "ifo")
            c = r(f * c) + r(i * r(tanh(sum(parts("g", x, h)))))
            h = r(o * r(tanh(c)))
        else:
            reset, z = (r(sigmoid(sum(parts(gate, x, h)))) for gate in "rz")
            w, b, u, d = parts("n", x, h)
            n = r(tanh(w + b + r(reset * (u + d))))
            h = r((1 - z) * n) + r(z * h)
        yield h


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("digits", [2, 3])
def test_the_key_is_what_the_formulas_of_the_documentation_give(
    tmp_path: Path, cell: str, digits: int
) -> None:
    words = ["3", "4", "5", "--cell", cell, "--bias", "--digits", str(digits)]
    reader = made(tmp_path, *words)
    rows = {row[0]: [number(cell) for cell in row[1:]] for row in reader.tables[0][2:]}
    ends = {
        line.split(" ")[0]: number(line.rpartition("#")[2])
        for line in reader.lines[reader.key_starts :]
        if line.startswith("h_") and "#" in line
    }
    states = list(states_by_formula(cell, rows, [3, 4, 5], digits))
    assert list(ends.values()) == states


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_the_distance_from_the_layer_is_that_of_torch(tmp_path: Path, cell: str) -> None:
    reader = made(tmp_path, "3", "4", "5", "--cell", cell, "--bias")
    rows = [[number(cell) for cell in row[1:]] for row in reader.tables[0][2:]]
    layer = getattr(torch.nn, cell.upper())(1, 1, batch_first=True)
    columns = torch.tensor([[float(value) for value in row] for row in rows])
    with torch.no_grad():
        layer.weight_ih_l0.copy_(columns[:, :1])
        layer.weight_hh_l0.copy_(columns[:, 1:2])
        layer.bias_ih_l0.copy_(columns[:, 2])
        layer.bias_hh_l0.copy_(columns[:, 3])
        own = layer(torch.tensor([[[3.0], [4.0], [5.0]]]))[0].flatten().tolist()
    table = {row[0]: row[1:] for row in reader.tables[-1][1:]}
    gaps = []
    for step, value in enumerate(own, start=1):
        key, printed_own, gap = table[f"h_{step}"]
        assert float(printed_own) == pytest.approx(value, abs=6e-7)
        assert float(gap) == pytest.approx(abs(value - float(key)), abs=6e-7)
        gaps.append(float(gap))
    largest = max(float(row[2]) for row in table.values())
    assert any(f"at most {largest:.6f} away" in line for line in reader.lines)


def test_a_tie_is_rounded_away_from_zero_whatever_binary_fractions_do(tmp_path: Path) -> None:
    # 0.05 × 0.5 = 0.025, which as a binary fraction lies above or below
    words = ["0.5", "--set", "weight_ih_l0=0.05", "--nonlinearity", "relu", "--digits", "2"]
    text = " ".join(made(tmp_path, *words).lines)
    assert "relu(#0.03 + #0.00)" in text


def test_the_caller_s_decimals_are_left_alone(tmp_path: Path) -> None:
    words = ["worksheet", "0.1", "-2", "--cell", "lstm", "--bias", "-o"]
    printed(*words, tmp_path / "a.html")
    with localcontext(Context(prec=2, traps=[Inexact, FloatOperation])) as context:
        printed(*words, tmp_path / "b.html")
        assert not any(context.flags.values())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_weights_are_rounded_and_all_there(tmp_path: Path) -> None:
    words = ["3,1", "4,2", "--cell", "lstm", "--hidden", "2", "--bias", "--digits", "2"]
    reader = made(tmp_path, *words)
    head, times, *rows = reader.tables[0]
    assert len(rows) == 8
    names = ["", "weight_ih_l0", "", "weight_hh_l0", "", "bias_ih_l0", "bias_hh_l0"]
    assert head == ["", "weight_ih_l0", "", "weight_hh_l0", "", "bias_ih_l0", "bias_hh_l0"] or (
        sorted(filter(None, head)) == sorted(filter(None, names))
    )
    assert times[0] == "times"
    assert all(re.fullmatch(r"-?\d\.\d\d", cell) for row in rows for cell in row[1:])


def test_an_input_with_more_decimals_is_rounded_and_told(tmp_path: Path) -> None:
    result = run("worksheet", "0.0625", "0.1", "-o", tmp_path / "s.html")
    assert "the input was rounded too" in result.stderr
    text = " ".join(read((tmp_path / "s.html").read_text(encoding="utf-8")).lines)
    assert "x_1 = 0.063" in text
    assert "x_2 = 0.1\n" in text
    assert run("worksheet", "0.1", "-o", tmp_path / "s.html").stderr == ""


def test_the_sheet_has_blanks_and_the_key_has_none(tmp_path: Path) -> None:
    reader = made(tmp_path, "3", "4", "--cell", "gru")
    first = reader.lines.index("Step by step\n")
    sheet, key = reader.lines[first : reader.key_starts], reader.lines[reader.key_starts :]
    assert not any(re.search(r"#-?\d", line) for line in sheet)
    assert not any(re.search(r"#(?!-?\d)", line) for line in key)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("3 4 5", "say where it is written: -o sheet.html, or --pdf sheet.pdf"),
        ("-o {}/s.html", "no input"),
        ("3 -o {}/none/s.html", "cannot write"),
        ("3 -o {}/s.html --digits 0", "--digits"),
        ("3 -o {}/s.html --digits 7", "--digits"),
        ("3 -o {}/s.html --hidden 20", "a sum of 21 products in a line cannot be read"),
        ("3 4 5 6 7 8 -o {}/s.html --hidden 4 --layers 3 --cell lstm", "cannot be read"),
        ("nan -o {}/s.html", "a worksheet needs finite numbers"),
        ("1e30 -o {}/s.html", "a worksheet needs numbers up to 100,000; got 1e+30"),
        ("3 -o {}/s.html --set weight_hh_l0=inf", "a worksheet needs finite numbers"),
        ("3 4 -o {}/s.html --layers 2 --dropout 0.5", "a worksheet has none"),
        ("3 4 -o {}/s.html --paper a5", "'a5' is not one of 'a4', 'letter'"),
        ("I love -o {}/s.html", "'I' is no number"),
        ("3 -o {}/s.html --hiden 2", "Did you mean --hidden?"),
    ],
)
def test_refusals(tmp_path: Path, words: str, message: str) -> None:
    assert message in refused("worksheet", *words.format(tmp_path).split())
    assert not list(tmp_path.iterdir())


def test_without_chromium_a_pdf_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    line = refused("worksheet", "3", "--pdf", tmp_path / "s.pdf")
    assert "no Chromium was found" in line
    assert "open it in a browser and print it" in line
    assert not list(tmp_path.iterdir())


def test_names_of_files_are_escaped(tmp_path: Path) -> None:
    torch.save(torch.nn.RNN(1, 1).state_dict(), tmp_path / "<b>x.pt")
    printed("worksheet", "3", "--weights", tmp_path / "<b>x.pt", "-o", tmp_path / "s.html")
    assert "&lt;b&gt;x.pt" in (tmp_path / "s.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
@pytest.mark.parametrize(("paper", "size"), [("a4", (595, 842)), ("Letter", (612, 792))])
def test_a_pdf_has_the_size_of_the_paper(tmp_path: Path, paper: str, size: tuple[int, int]) -> None:
    words = ["3", "4", "--layers", "2", "--bidirectional", "--hidden", "2", "--bias"]
    printed("worksheet", *words, "--pdf", tmp_path / "s.pdf", "--paper", paper)
    content = (tmp_path / "s.pdf").read_bytes()
    boxes = re.findall(rb"/MediaBox ?\[ ?0 0 ([\d.]+) ([\d.]+)", content)
    assert len(boxes) >= 2
    for width, height in boxes:
        assert (round(float(width)), round(float(height))) == pytest.approx(size, abs=1)


OVER_THE_EDGE = """
document.body.style.width = document.body.style.maxWidth = arguments[0] + "mm";
document.body.style.padding = "0";
const edge = document.body.getBoundingClientRect().right + 1;
return [...document.body.querySelectorAll("*")]
    .filter(e => e.getBoundingClientRect().right > edge).map(e => e.textContent);
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "3 4 5 --cell lstm --bias",
        "3 4 --layers 2 --bidirectional --hidden 2 --bias",
        "1 2 --cell lstm --hidden 3 --proj-size 2 --bias --digits 6",
        "3,1,2,4,5 1,1,1,1,1 --cell gru --hidden 4 --bias",
        "0.25,1 -1.5,2 --cell lstm_peephole --hidden 2 --bias --digits 6",
    ],
)
def test_nothing_runs_over_the_edge_of_the_paper(tmp_path: Path, browser: Any, words: str) -> None:
    """A4 is the narrower paper: 210 mm without two margins of 14 mm."""
    printed("worksheet", *words.split(), "-o", tmp_path / "s.html")
    page = Page(browser, tmp_path / "s.html").open()
    assert page.js(OVER_THE_EDGE, 182) == []
    assert page.js(OVER_THE_EDGE, 40) != []
