"""The page's file: what it holds, its policy, what it leaves out, what it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import rnnscope as rs
from rnnscope._cli.commands import app
from rnnscope._page import contents as held
from rnnscope._page.script import functions, runnable, tree
from rnnscope.cells import DECLARED, LSTM, from_h, from_x, previous, project, quantity, tanh, vector


def traced(**options: Any) -> Any:
    torch.manual_seed(0)
    return rs.trace(nn.LSTM(3, 5, batch_first=True), torch.randn(2, 4, 3), **options)


def facts(html: str) -> Any:
    (found,) = re.findall(r'<script type="application/json" id="record">(.*?)</script>', html, re.S)
    return json.loads(found)


def array(found: Any) -> Any:
    kind = {"f4": "<f4", "f8": "<f8"}[found["type"]]
    return np.frombuffer(base64.b64decode(found["data"]), kind).reshape(found["shape"])


def test_the_numbers_are_the_traces_bit_for_bit() -> None:
    tr = traced()
    page = facts(tr.view().html)
    for name in tr.cell.quantities:
        assert np.array_equal(array(page["values"][name]), tr[name].numpy())
    assert np.array_equal(array(page["x"]), tr.layer_input(0).numpy())
    weights = page["weights"][0][0]["tensors"]
    assert {each["name"] for each in weights.values()} == set(tr.parameters)
    for each in weights.values():
        assert np.array_equal(array(each), tr.parameters[each["name"]].numpy())
    assert page["proof"] == tr.proof
    double = rs.trace(nn.GRU(2, 3).double(), torch.randn(4, 1, 2).double())
    assert np.array_equal(array(facts(double.view().html)["values"]["h"]), double["h"].numpy())


def test_the_policy_allows_this_script_and_this_style_alone() -> None:
    html = traced().view().html
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    allowed = policy[1].replace("&#x27;", "'").replace("&#39;", "'")
    assert allowed.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in allowed
    assert "http" not in allowed
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in allowed
    markup = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", html, flags=re.S)
    assert " style=" not in markup
    assert not re.search(r"\son\w+=", markup)
    assert not re.search(r"(src|href)=\"(?!#|data:)", markup)


def test_what_comes_from_a_user_cannot_leave_its_place() -> None:
    hostile = ["</script><script>alert(1)</script>", "<!--", "\u2028\u2029&@@SCRIPT@@", "\ud800"]
    page = traced(labels=hostile).view()
    assert page.html.count("<script") == 2
    assert "alert(1)</script>" not in page.html
    assert facts(page.html)["labels"][0][:3] == hostile[:3]


def test_functions_that_would_end_the_script_are_left_out() -> None:
    line = runnable({"good": "x + 1", "bad": "'</script>'", "none": "", "comment": "1 //<!--"})
    assert line == 'rnnscope.functions = [["good", (x) => x + 1]];'


@pytest.mark.parametrize("name", DECLARED)
def test_every_declared_cell_has_its_equations_and_functions_in_the_page(name: str) -> None:
    cell = DECLARED[name]
    trees = {quantity: tree(equation) for quantity, equation in cell.equations.items()}
    assert json.loads(json.dumps(trees)) == trees
    assert all(functions(cell).values())


def test_a_tree_keeps_the_order_of_the_equation() -> None:
    found = tree(LSTM.equations["c"])
    assert found["op"] == "plus"
    assert found["left"]["left"] == {"op": "quantity", "name": "f"}
    assert found["left"]["right"] == {"op": "previous", "name": "c"}


def test_a_tree_of_every_operation_is_what_the_page_reads() -> None:
    """Written by hand from ``engine.js``, which reads no other form."""
    h = {"op": "previous", "name": "h"}
    r = {"op": "quantity", "name": "r"}
    w = {"op": "vector", "name": "w"}
    projected = {"op": "project", "of": {"op": "times", "left": r, "right": w}}
    assert tree(tanh(from_x("n") - from_h("n", quantity("r") * previous("h")))) == {
        "op": "apply",
        "name": "tanh",
        "symbol": "tanh",
        "of": {
            "op": "minus",
            "left": {"op": "from_x", "gate": "n"},
            "right": {
                "op": "from_h",
                "gate": "n",
                "of": {"op": "times", "left": r, "right": h},
            },
        },
    }
    assert tree(project(quantity("r") * vector("w"))) == projected
    assert tree(0.5 + from_h("n")) == {
        "op": "plus",
        "left": {"op": "number", "value": 0.5},
        "right": {"op": "from_h", "gate": "n"},
    }


# --- size -----------------------------------------------------------------------------------------


def test_more_sequences_than_a_page_can_hold_are_left_out_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tr = rs.trace(nn.LSTM(4, 16, batch_first=True), torch.randn(20, 50, 4))
    monkeypatch.setattr(held, "MOST", 2**19)
    page = facts(tr.view().html)
    kept = len(page["rows"])
    assert 1 <= kept < 20
    assert page["left_out"][0].startswith(f"Sequences {kept} to 19 of the batch are left out")
    assert len(tr.view().html) < 2**19
    assert facts(tr.view(batch=19).html)["rows"] == [19]
    assert facts(tr.view(batch=-1).html)["rows"] == [19]
    with pytest.raises(rs.AddressError, match="no batch 20"):
        tr.view(batch=20)


def test_a_sequence_that_is_too_long_is_refused_and_nothing_written(tmp_path: Path) -> None:
    tr = rs.trace(nn.LSTM(1, 64), torch.randn(30_000, 1))
    path = tmp_path / "page.html"
    path.write_text("kept")
    with pytest.raises(rs.ShapeError, match="Trace fewer steps"):
        tr.view(path)
    assert path.read_text() == "kept"


def test_two_layers_of_128_units_in_both_directions_fit() -> None:
    layer = nn.LSTM(64, 128, num_layers=2, bidirectional=True)
    assert len(rs.trace(layer, torch.randn(200, 1, 64)).view().html) < 20 * 2**20


# --- writing, labels ------------------------------------------------------------------------------


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    page = traced().view(tmp_path / "page.html")
    assert page.path is not None
    assert page.path.read_text(encoding="utf-8") == page.html
    with pytest.raises(rs.FileError, match="cannot write"):
        traced().view(tmp_path / "nowhere" / "page.html")
    with pytest.raises(rs.FileError, match="folder"):
        traced().view(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_in_a_notebook_it_shows_itself_in_a_frame_of_its_own() -> None:
    html = traced().view()._repr_html_()
    assert html.startswith('<iframe title="rnnscope" sandbox="allow-scripts" srcdoc="&lt;!doctype')
    assert html.count('"') == 2 * html.count('="')
    assert "view('page.html')" in str(traced().view())


def test_labels_are_kept_with_the_trace(tmp_path: Path) -> None:
    tr = traced(labels=["the", "cat", "sat", "</s>"])
    assert tr.labels == (("the", "cat", "sat", "</s>"),) * 2
    tr.save(tmp_path / "trace.safetensors")
    assert rs.load_trace(tmp_path / "trace.safetensors").labels == tr.labels
    assert tr.rerun(rs.Edit("h", time=0, to=0.0)).labels == tr.labels
    shown = tr.view(labels=[list("abcd"), list("efgh")])
    assert facts(shown.html)["labels"] == [list("abcd"), list("efgh")]
    assert tr.labels[0][0] == "the"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (list("abcde"), "labels must be 4, one a step; got 5. Leave out"),
        (list("abc"), "got 3. Fill up"),
        ([list("abcd")], "1 lists, and the batch 2 sequences"),
        ([list("abcd"), list("abc")], "labels of sequence 1 must be 4"),
        (7, "a list of texts"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(rs.ShapeError, match=re.escape(message)):
        traced(labels=labels)
    with pytest.raises(rs.ShapeError, match=re.escape(message)):
        traced().view(labels=labels)


def test_a_rerun_is_not_shown() -> None:
    with pytest.raises(rs.RefusedError, match="make the edit in the page"):
        traced().rerun(rs.Edit("h", time=0, to=0.0)).view()


# --- the command line -----------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["view", *arguments])


def test_view_writes_a_page(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    found = run("3", "4", "5", "-o", str(path), "--cell", "lstm", "--labels", "a,b,c")
    assert found.exit_code == 0, found.output
    page = facts(path.read_text(encoding="utf-8"))
    assert (page["kind"], page["time"], page["labels"]) == ("nn.LSTM", 3, [["a", "b", "c"]])
    assert page["construction"].startswith("lstm = nn.LSTM(input_size=1, hidden_size=1")
    assert array(page["x"]).flatten().tolist() == [3, 4, 5]


def test_view_shows_a_layer_of_a_file(tmp_path: Path) -> None:
    weights, x, path = (tmp_path / name for name in ("w.pt", "x.npy", "page.html"))
    gru = nn.GRU(2, 3, batch_first=True)
    torch.save({f"encoder.{k}": v for k, v in gru.state_dict().items()}, weights)
    np.save(x, np.ones((4, 2), np.float32))
    found = run("--weights", str(weights), "--input", str(x), "-o", str(path))
    assert found.exit_code == 0, found.output
    expected = gru(torch.ones(1, 4, 2))[0].detach().numpy()
    shown = array(facts(path.read_text(encoding="utf-8"))["values"]["h"])[0, 0]
    assert np.allclose(shown, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3", "4"], "say where the page is written"),
        (["-o", "page.html"], "no input"),
        (["3", "-o", "/nowhere/page.html"], "cannot write"),
        (["3", "-o", "page.html", "--labels", "a,b"], "labels must be 1"),
        (["3", "-o", "page.html", "--unknown"], "no such option"),
    ],
)
def test_view_says_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run(*arguments)
    assert found.exit_code == 2
    assert message in found.output + str(found.exception)
    assert list(tmp_path.iterdir()) == []


def test_gradients_must_be_those_of_the_trace() -> None:
    layer = nn.GRU(2, 3)
    tr, other = (rs.trace(layer, torch.randn(4, 2, 2)) for _ in range(2))
    assert tr.view(gradients=tr.gradients(tr.output.sum()))
    with pytest.raises(rs.ShapeError, match="of another trace"):
        tr.view(gradients=other.gradients(other.output.sum()))
    with pytest.raises(TypeError, match="those of"):
        tr.view(gradients=tr)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", ["a", 1.0, True, slice(2)])
def test_a_sequence_is_a_whole_number(batch: Any) -> None:
    with pytest.raises(rs.AddressError, match="whole number"):
        rs.trace(nn.GRU(2, 3), torch.randn(4, 2, 2)).view(batch=batch)


def test_gates_that_were_not_recorded_are_asked_for() -> None:
    with pytest.raises(rs.AddressError, match="i, f, g, o"):
        rs.trace(nn.LSTM(2, 3), torch.randn(4, 2, 2), record=["h"]).view()


# --- what stands around the layer -----------------------------------------------------------------


def spoken(**options: Any) -> Any:
    """A trace of embedded tokens 0, 1, 2, 0 and 3, 1, and what stood around its layer."""
    torch.manual_seed(0)
    embedding = nn.Embedding(4, 3)
    x = embedding(torch.tensor([[0, 1, 2, 0], [3, 1, 0, 0]])).detach()
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]), batch_first=True)
    tr = rs.trace(nn.LSTM(3, 5, batch_first=True, **options), packed)
    return tr, embedding, nn.Linear(5 * len(tr.directions), 4)


def test_a_page_holds_embedding_readout_and_pytorchs_predictions() -> None:
    tr, embedding, linear = spoken(bidirectional=True)
    words = {"a": 1, "b": 0, "c": 2, "d": 3}
    page = facts(tr.view(readout=linear, vocabulary=words, embedding=embedding).html)
    assert page["vocabulary"]["tokens"] == list("bacd")
    assert page["labels"] == [list("bacb"), list("da")]
    assert np.array_equal(array(page["vocabulary"]["embedding"]), embedding.weight.detach().numpy())
    (stage,) = page["readout"]["stages"]
    assert np.array_equal(array(stage["weight"]), linear.weight.detach().numpy())
    output = nn.utils.rnn.pad_packed_sequence(tr.output, batch_first=True)[0]
    values, places = linear(output).softmax(-1).topk(4)
    assert torch.allclose(torch.tensor(array(page["readout"]["values"])), values, atol=1e-6)
    assert array(page["readout"]["places"]).astype(int).tolist() == places.tolist()
    assert facts(tr.view(batch=1, vocabulary=words, embedding=embedding).html)["labels"] == [
        ["d", "a"]
    ]
    own = tr.view(labels=[list("wxyz"), list("wx")], vocabulary=words, embedding=embedding)
    assert facts(own.html)["labels"] == [list("wxyz"), list("wx")]


def test_labels_come_of_one_hot_input() -> None:
    torch.manual_seed(0)
    x = torch.eye(3)[[2, 0, 2, 1]]
    tr = rs.trace(nn.GRU(3, 2), x)
    page = facts(tr.view(vocabulary="xyz").html)
    assert page["labels"] == [list("zxzy")]
    assert (page["vocabulary"]["split"], page["vocabulary"]["untyped"]) == ("characters", "")
    assert page["readout"] is None
    x[1, 1] = 0.5
    page = facts(rs.trace(nn.GRU(3, 2), x).view(vocabulary="xyz").html)
    assert page["labels"] is None
    assert "not one-hot" in page["vocabulary"]["untyped"]


def test_an_embedding_that_shortens_its_rows_is_kept_shortened() -> None:
    embedding = nn.Embedding(3, 2, max_norm=0.5)
    x = embedding(torch.tensor([[0, 1]])).detach()
    page = facts(
        rs.trace(nn.RNN(2, 2, batch_first=True), x).view(vocabulary="abc", embedding=embedding).html
    )
    assert np.linalg.norm(array(page["vocabulary"]["embedding"]), axis=1).max() <= 0.5


class Scaled(nn.Linear):
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


HOOKED = nn.Linear(5, 4)
HOOKED.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"readout": nn.Linear(10, 4)},
            rs.ShapeError,
            "in_features=5, which is a step of the layer's output; got 10",
        ),
        (
            {"readout": nn.Linear(5, 3)},
            rs.ShapeError,
            "as many texts as the readout has out_features, 3; got 4",
        ),
        (
            {"readout": nn.Linear(5, 3), "classes": ["x"]},
            rs.ShapeError,
            "classes must have as many",
        ),
        (
            {"readout": nn.GRU(5, 4)},
            TypeError,
            "readout must be an nn.Linear, or an nn.Sequential of .*; got GRU",
        ),
        ({"readout": lambda h: h}, TypeError, "got function"),
        ({"readout": Scaled(5, 4)}, TypeError, "got Scaled"),
        ({"readout": HOOKED}, TypeError, "forward hooks"),
        ({"readout": nn.Sequential(nn.Linear(5, 4), nn.GELU())}, TypeError, "got GELU at 1"),
        (
            {"readout": nn.Sequential(nn.Linear(5, 4), nn.Sigmoid())},
            TypeError,
            "must end with nn.Linear",
        ),
        (
            {"readout": nn.Sequential(nn.Softmax(-1), nn.Linear(5, 4))},
            TypeError,
            "must end with its softmax",
        ),
        (
            {"readout": nn.Sequential(nn.Linear(5, 6), nn.Linear(7, 4))},
            rs.ShapeError,
            "does not fit together",
        ),
        ({"readout": nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 4))}, ValueError, "readout.eval"),
        ({"readout": nn.Sequential()}, TypeError, "has no nn.Linear"),
        (
            {"vocabulary": list("abc")},
            rs.ShapeError,
            "as many texts as the embedding has rows, 4; got 3",
        ),
        ({"vocabulary": ["a", "b", "c", "a"]}, ValueError, "holds 'a' at 0 and at 3"),
        ({"vocabulary": ["a", "b", "c", 3]}, TypeError, "must hold texts; got int at 3"),
        ({"vocabulary": 4}, TypeError, "a list of texts"),
        ({"vocabulary": []}, ValueError, "vocabulary is empty"),
        ({"vocabulary": {"a": 0, "b": 1, "c": 2, "d": 4}}, ValueError, "no token has 3"),
        ({"vocabulary": {"a": 0, "b": 0, "c": 2, "d": 3}}, ValueError, "the number 0"),
        ({"vocabulary": {0: "a", 1: "b"}}, TypeError, "a dict from texts to numbers"),
        ({"vocabulary": None}, ValueError, "give vocabulary"),
        ({"classes": ["x"]}, ValueError, "give readout"),
        (
            {"embedding": nn.Embedding(4, 3)},
            ValueError,
            "x at batch 0, time 0 is no row of the embedding",
        ),
        ({"embedding": nn.Embedding(4, 2)}, rs.ShapeError, "embedding_dim=3"),
        (
            {"embedding": nn.EmbeddingBag(4, 3)},
            TypeError,
            "must be an nn.Embedding; got EmbeddingBag",
        ),
        ({"embedding": torch.zeros(4, 3)}, TypeError, "got Tensor"),
        ({"readout": nn.Linear(5, 4, device="meta")}, TypeError, "on the device meta"),
        ({"hide": None}, TypeError, "hide must be a name or several of results"),
        ({"hide": "answers"}, rs.AddressError, "results, weights, arithmetic, text"),
        ({"title": 3}, TypeError, "title must be a text"),
    ],
)
def test_what_does_not_fit_around_the_layer_is_refused(
    options: Any, error: Any, message: str, tmp_path: Path
) -> None:
    tr, embedding, _ = spoken()
    path = tmp_path / "page.html"
    with pytest.raises(error, match=message):
        tr.view(path, **({"vocabulary": list("abcd"), "embedding": embedding} | options))
    assert not path.exists()


def test_a_vocabulary_that_is_too_large_for_a_page_is_refused_with_what_to_do() -> None:
    count = 40_000
    tr = rs.trace(nn.GRU(64, 64), torch.zeros(3, 64))
    words = [f"word{k}" for k in range(count)]
    table = nn.Embedding(count, 64)
    with torch.no_grad():
        table.weight[0] = 0
    with pytest.raises(
        rs.ShapeError,
        match=r"the embedding \(40000 × 64\), the readout \(40000 × 64\) and the 40000 texts of "
        r"tokens make a page of \d\d MB; the most is 20. Keep the tokens that you need",
    ):
        tr.view(readout=nn.Linear(64, count), vocabulary=words, embedding=table)
    page = tr.view(vocabulary=words, embedding=table)
    assert len(page.html.encode()) < held.MOST
    assert facts(page.html)["labels"] == [["word0"] * 3]


def test_the_page_leaves_the_model_as_it_was() -> None:
    tr, embedding, linear = spoken()
    modules = nn.ModuleList([embedding, linear])
    before = {k: v.clone() for k, v in modules.state_dict().items()}
    draws = torch.get_rng_state()
    tr.view(readout=linear, vocabulary=list("abcd"), embedding=embedding)
    assert torch.equal(draws, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in modules.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in modules.parameters())
    assert linear.training
    assert tr.labels == ()


def test_view_takes_a_title_and_leaves_parts_out(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    found = run(
        "3",
        "4",
        "-o",
        str(path),
        "--title",
        "<i>Week 3</i>",
        "--hide",
        "results,maps",
        "--hide",
        "cell",
    )
    assert found.exit_code == 0, found.output
    html = path.read_text(encoding="utf-8")
    assert "<title>&lt;i&gt;Week 3&lt;/i&gt; · rnnscope</title>" in html
    page = facts(html)
    assert (page["title"], page["hide"]) == ("<i>Week 3</i>", ["results", "maps", "cell"])
    assert page["construction"].startswith("rnn = nn.RNN(")
    found = run("3", "4", "-o", str(path), "--hide", "answers")
    assert found.exit_code == 2
    assert "results, weights" in found.output + str(found.exception)
    found = run("3", "4", "5", "-o", str(path), "--labels", "I love RNNs")
    assert found.exit_code == 2
    assert "with commas, --labels I,love,RNNs" in found.output + str(found.exception)


def test_the_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parent.parent
    blocks = re.findall(
        r"```python\n(.*?)```", (root / "docs" / "page.md").read_text("utf-8"), re.S
    )
    (code,) = [block for block in blocks if "import" in block]
    own = "".join(block for block in blocks if block is not code and "embedding" in block)
    (tmp_path / "tutorial").symlink_to(root / "tutorial")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    exec(compile(own, "docs/page.md", "exec"), {"torch": torch, "rs": rs})
    assert facts((tmp_path / "page.html").read_text("utf-8"))["readout"]
    variables: dict[str, Any] = {}
    exec(compile(code, "docs/page.md", "exec"), variables)
    page = facts((tmp_path / "brackets.html").read_text("utf-8"))
    most = array(page["readout"]["places"])[0, :, 0].astype(int)
    expected = variables["open_brackets"][0, :12]
    assert (most == expected.numpy()).mean() > 0.9  # it does tell how many are open
