"""The page, used as a person would; its numbers are read where they are shown, and compared with
the trace to the printed digits."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnscope as rs
from rnnscope.cells import (
    Cell,
    Function,
    apply,
    from_h,
    from_x,
    previous,
    quantity,
    sigmoid,
    tanh,
)


def notebook() -> Any:
    rnn = nn.RNN(1, 1, bias=False, batch_first=True)
    with torch.no_grad():
        rnn.weight_ih_l0.fill_(0.195855)
        rnn.weight_hh_l0.fill_(0.690592)
    return rs.trace(rnn, torch.tensor([[[3.0], [4.0], [5.0]]]))


def stacked(kind: Any = nn.LSTM, **options: Any) -> Any:
    torch.manual_seed(0)
    layer = kind(3, 5, num_layers=2, bidirectional=True, batch_first=True, **options)
    return rs.trace(layer, torch.randn(2, 7, 3))


def packed() -> Any:
    torch.manual_seed(1)
    x = pack_padded_sequence(
        torch.randn(3, 6, 2), torch.tensor([6, 2, 4]), batch_first=True, enforce_sorted=False
    )
    return rs.trace(nn.GRU(2, 4, batch_first=True, bidirectional=True), x)


def close(shown: str, number: float) -> bool:
    """Whether the digits that are shown are those of the number: half a unit of the last one, and
    a rounding of float32."""
    if shown in ("NaN", "inf", "-inf"):
        return str(number).lower().replace("nan", "nan") == shown.lower()
    mantissa = shown.lower().partition("e")[0]
    digits = len(mantissa.partition(".")[2])
    exponent = int(shown.lower().partition("e")[2] or 0)
    return abs(float(shown) - number) <= 0.5001 * 10.0 ** (exponent - digits) + 2e-7 * abs(number)


# --- the first screen -----------------------------------------------------------------------------


def test_the_first_screen_shows_three_steps_and_their_arithmetic(page: Any) -> None:
    tr = notebook()
    shown = page(tr)
    for name, value in (("x", tr.layer_input(0)), ("h", tr["h"])):
        cells = shown.all(f"#chain output[data-quantity='{name}']")
        assert len(cells) == 3
        for cell, number in zip(cells, value.flatten().tolist(), strict=True):
            assert close(cell.text, number)
    assert [each.text for each in shown.all(".card output")] == ["0.195855", "0.690592"]
    lines = [each.text for each in shown.all("#arithmetic .filled")]
    h_1 = math.tanh(0.195855 * 3)
    from_x, from_h = 0.195855 * 4, 0.690592 * h_1
    assert lines == [
        f"= tanh(0.195855 × 4 + 0.690592 × {h_1:.6f})",
        f"= tanh({from_x:.6f} + {from_h:.6f})",
        f"= tanh({from_x + from_h:.6f})",
        f"= {math.tanh(from_x + from_h):.6f}",
    ]
    assert shown.text("#proof") == tr.proof
    assert float(shown.one("#own").get_attribute("data-deviation")) < 1e-7
    shares = [each.text for each in shown.all(".share")]
    own = 0.690592 * tr["h"][0, 0, 0, 0, 0].item()
    assert shares[:2] == ["0%", f"{round(100 * own / (own + 4 * 0.195855))}%"]


def test_dragging_an_input_moves_every_later_state_and_the_arithmetic(page: Any) -> None:
    tr = notebook()
    shown = page(tr)
    slider = shown.one("#chain input[data-time='0']")
    shown.slide(slider, -2.5)
    edited = tr.rerun(rs.Edit("x", layer=0, batch=0, time=0, unit=0, to=-2.5))
    cells = shown.all("#chain output[data-quantity='h']")
    for cell, number in zip(cells, edited["h"].flatten().tolist(), strict=True):
        assert abs(float(cell.text) - number) < 1e-5
    ghosts = [each.text for each in shown.all("#chain .out .ghost")]
    assert [float(text.removeprefix("was ")) for text in ghosts] == pytest.approx(
        tr["h"].flatten().tolist(), abs=1e-6
    )
    moved = (edited["h"] - tr["h"]).abs().flatten().tolist()
    assert moved[0] > moved[1] > moved[2]
    assert "-2.5" not in shown.text("#arithmetic")  # that is step 1; the playhead is at step 2
    assert close(shown.text("#arithmetic .total output"), edited["h"][0, 0, 0, 1, 0].item())
    assert "edit=x@0:-2.5" in shown.js("return location.hash")
    shown.one("#reset").click()
    cells = shown.all("#chain output[data-quantity='h']")
    assert all(
        close(cell.text, number)
        for cell, number in zip(cells, tr["h"].flatten().tolist(), strict=True)
    )


def test_a_slider_can_be_moved_by_keyboard_and_by_pointer(page: Any, browser: Any) -> None:
    shown = page(notebook())
    slider = shown.one("#chain input[data-time='1']")
    before = shown.text("#chain output[data-quantity='h'][data-time='2']")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert shown.text("#chain output[data-quantity='h'][data-time='2']") != before
    assert float(shown.text("#chain output[data-quantity='x'][data-time='1']")) > 4
    ActionChains(browser).move_to_element_with_offset(slider, -30, 0).click().perform()
    assert float(shown.text("#chain output[data-quantity='x'][data-time='1']")) < 4


def test_without_the_recurrent_weight_there_is_no_memory(page: Any) -> None:
    tr = notebook()
    shown = page(tr)
    shown.slide(shown.one("[data-weight='weight_hh_l0'][type=range]"), 0)
    other = tr.rerun(weights={"weight_hh_l0": torch.zeros(1, 1)})
    for time in range(3):
        cell = shown.text(f"#chain output[data-quantity='h'][data-time='{time}']")
        assert abs(float(cell) - other["h"][0, 0, 0, time, 0].item()) < 1e-5
    assert [each.text for each in shown.all(".share")] == ["0%"] * 3


def test_no_share_is_told_of_a_product_with_the_state_that_there_is_not(page: Any) -> None:
    z, n = quantity("z"), quantity("n")
    gates = {"z": sigmoid(from_x("z")), "n": from_x("n")}
    cell = Cell("minGRU", "zn", {**gates, "h": (1 - z) * previous("h") + z * n})
    shown = page(rs.trace(rs.Recurrent(cell, 2, 3), torch.randn(3, 1, 2)))
    assert [each.text for each in shown.all(".share")] == [""] * 3
    half = Cell("half", "zn", {**gates, "n": tanh(from_h("n")), "h": (1 - z) * previous("h") + n})
    layer = rs.Recurrent(half, 2, 1, bias=False)
    tr = rs.trace(layer, torch.randn(3, 1, 2))
    shown = page(tr)
    weights = tr.parameters
    of_h = abs(float(weights["weight_hh_l0"][0, 0] * tr["h"][0, 0, 0, 1, 0]))
    of_x = abs(float(weights["weight_ih_l0"][0] @ tr.layer_input(0)[0, 2]))
    assert shown.all(".share")[2].text == f"{round(100 * of_h / (of_h + of_x))}%"


def test_the_same_weights_are_lit_in_every_box(page: Any, browser: Any) -> None:
    shown = page(notebook())
    ActionChains(browser).move_to_element(shown.one(".card.of-hh strong")).perform()
    assert "lit-h" in shown.one("#chain").get_attribute("class")
    ActionChains(browser).move_to_element(shown.one(".card.of-ih strong")).perform()
    classes = shown.one("#chain").get_attribute("class")
    assert "lit-x" in classes
    assert "lit-h" not in classes


def test_results_are_hidden_until_a_step_is_clicked(page: Any, browser: Any) -> None:
    shown = page(notebook())
    shown.one("body").send_keys("?")
    h = shown.one("#chain output[data-quantity='h'][data-time='1']")
    assert not h.is_displayed()
    assert shown.all("#arithmetic .filled") == []
    assert "hidden=1" in shown.js("return location.hash")
    for section in ("cell-section", "unrolled-section", "maps-section"):
        shown.opened(section)  # nothing is given away below
    for css in ("#graph", "#explanation", "#unrolled", "#maps"):
        assert not shown.one(css).is_displayed()
    shown.one(".box[data-time='1']").click()
    assert h.is_displayed()
    assert len(shown.all("#arithmetic .filled")) == 4
    assert not shown.one("#chain output[data-quantity='h'][data-time='2']").is_displayed()
    shown.one("#hide").click()
    assert shown.one("#chain output[data-quantity='h'][data-time='2']").is_displayed()
    assert shown.one("#maps").is_displayed()
    assert shown.all("#graph path")


# --- walking --------------------------------------------------------------------------------------


def test_the_playhead_moves_by_slider_keys_buttons_and_clicks(page: Any) -> None:
    shown = page(notebook())

    def time() -> int:
        found: int = shown.js("return rnnscope.page.state.time")
        return found

    assert time() == 1
    shown.one("body").send_keys(Keys.ARROW_RIGHT)
    assert time() == 2
    shown.one("body").send_keys(Keys.ARROW_RIGHT)
    assert time() == 2  # there is no fourth step
    shown.one("body").send_keys(Keys.ARROW_LEFT)
    assert time() == 1
    shown.one("#previous").click()
    assert time() == 0
    shown.one("#playhead").send_keys(Keys.END)
    assert time() == 2
    shown.one(".box[data-time='0']").click()
    assert time() == 0
    shown.opened("unrolled-section")
    shown.one(".strip").click()  # in its middle
    assert time() == 1
    assert shown.text("#where") == "step 2 of 3, time=1"


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_every_quantity_of_the_cell_is_the_traces(page: Any, kind: Any) -> None:
    tr = stacked(kind)
    shown = page(tr, "#time=3&layer=1&direction=reverse&row=1&unit=2")
    shown.opened("cell-section")
    for name in tr.cell.quantities:
        number = tr[name][1, 1, 1, 3, 2].item()
        assert close(shown.text(f"[data-node='{name}'] output"), number)
        assert close(shown.text(f"#arithmetic [data-quantity='{name}']"), number)
    before = tr["h"][1, 1, 1, 4, 2].item()
    assert close(shown.text("[data-source='before-h']"), before)


def test_a_quantity_is_explained_and_its_terms_lead_to_where_they_come_from(page: Any) -> None:
    tr = stacked()
    shown = page(tr, "#time=3&layer=1&unit=2")
    shown.opened("cell-section")
    shown.one("[data-node='f']").click()
    data = tr.explain("f", layer=1, direction="forward", batch=0, time=3, unit=2).data()
    assert close(shown.text("[data-of=explanation]"), data["by_hand"]["f"])
    part = tr.weights[1][0]
    row = part.rows("f").start + 2
    x = tr.layer_input(1)[0, 3]
    products = part.ih[row] * x
    place = int(products.abs().argmax())
    first = shown.one(".leaves tr")
    assert first.text.startswith(f"weight_ih_l1[{row}, {place}]")
    assert close(first.text.split()[-1], products[place].item())
    assert shown.all(".leaves math") == []
    assert shown.one("#explanation math") is not None
    first.find_element("css selector", "button").click()
    state = shown.js("return rnnscope.page.state")
    direction = ["forward", "reverse"][place // 5]
    assert (state["layer"], state["direction"], state["unit"]) == (0, direction, place % 5)
    assert state["quantity"] == "h"
    assert close(shown.text("[data-of=explanation]"), x[place].item())


def test_the_products_of_a_sum_are_the_traces(page: Any) -> None:
    tr = stacked(nn.GRU)
    shown = page(tr, "#time=3&direction=reverse&unit=2&quantity=n&layer=1")
    shown.opened("cell-section")
    part = tr.weights[1][1]
    row = part.rows("n").start + 2
    h = tr["h"][1, 1, 0, 4]  # reverse: the state of the step after
    expected = {f"weight_hh_l1_reverse[{row}, {k}]": part.hh[row, k] * h[k] for k in range(5)}
    expected["bias_hh_l1_reverse[" + str(row) + "]"] = part.b_hh[row]
    own = next(each for each in shown.all(".leaves li") if "(h at time=4)" in each.text)
    assert own.text.startswith("Whn h5 + bhn (h at time=4) = ")
    rows = own.find_elements("css selector", "tr")
    products = {each.text.split(" = ")[0].split("  ")[0]: each for each in rows}
    assert len(products) == len(expected)
    for each in rows:
        name = each.find_element("css selector", "code").text
        assert close(each.text.split()[-1], float(expected[name]))
    total = own.find_element("css selector", ".number").text
    assert close(total, float(sum(expected.values())))
    assert [each.text for each in shown.all(".leaves .term")][:2] != []
    names = {each.text for each in shown.all(".leaves .term")}
    assert {"h[0]", "r"} <= names
    assert any(name.endswith(" reverse") for name in names)  # of the layer below, both directions


def test_a_state_leads_to_the_step_before(page: Any) -> None:
    tr = stacked()
    shown = page(tr, "#time=3&unit=2&quantity=c")
    shown.opened("cell-section")
    before = next(each for each in shown.all(".leaves .term") if each.text == "c before")
    before.click()
    state = shown.js("return rnnscope.page.state")
    assert (state["time"], state["quantity"], state["unit"]) == (2, "c", 2)
    assert close(shown.text("[data-of=explanation]"), tr["c"][0, 0, 0, 2, 2].item())


@pytest.mark.parametrize("width", [360, 1000, 1280])
@pytest.mark.parametrize(
    ("kind", "options"), [(nn.GRU, {}), (nn.LSTM, {}), (nn.LSTM, {"proj_size": 2})]
)
def test_no_line_of_the_diagram_runs_behind_a_box(
    page: Any, kind: Any, options: Any, width: int
) -> None:
    shown = page(stacked(kind, **options), "#time=3")
    shown.size(width)
    shown.opened("cell-section")
    shown.browser.execute_async_script("setTimeout(arguments[0], 60)")
    script = """
      const graph = document.getElementById("graph"), box = graph.getBoundingClientRect();
      const nodes = [...graph.querySelectorAll(".node")].map((n) => n.getBoundingClientRect());
      const within = (n, x, y) =>
        x > n.left + 3 && x < n.right - 3 && y > n.top + 1 && y < n.bottom - 1;
      const paths = [...graph.querySelectorAll(".wires path")], found = [];
      for (const path of paths) {
        const length = path.getTotalLength();
        for (let k = 1; k < 60; k++) {
          const at = path.getPointAtLength(length * k / 60);
          const x = at.x + box.left - graph.scrollLeft, y = at.y + box.top;
          if (nodes.some((n) => within(n, x, y))) found.push(path.getAttribute("d"));
        }
      }
      return [paths.length, found];
    """
    count, behind = shown.js(script)
    assert count >= len(stacked(kind, **options).cell.quantities)
    assert behind == []


@pytest.mark.parametrize("width", [360, 1000, 1280])
def test_the_products_are_not_cut(page: Any, width: int) -> None:
    shown = page(stacked(proj_size=3), "#time=3&quantity=f&unit=1")
    shown.size(width)
    shown.opened("cell-section")
    script = """
      const edge = document.getElementById("explanation").getBoundingClientRect().right;
      return [...document.querySelectorAll(".products td:last-child")].map(
        (cell) => edge - cell.getBoundingClientRect().right);
    """
    room = shown.js(script)
    assert len(room) >= 6
    assert min(room) >= 0


# --- the layer unrolled, maps ---------------------------------------------------------------------

SIGNED = [(127, 59, 8), (214, 130, 40), (247, 247, 247), (67, 147, 195), (5, 48, 97)]
GATE = [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)]


def coloured(value: float, low: float, high: float, stops: Any = None) -> tuple[float, ...]:
    stops = SIGNED if stops is None else stops
    at = (value - low) / (high - low) * 4
    return tuple(np.interp(at, range(5), [stop[k] for stop in stops]) for k in range(3))


def pixels(shown: Any, css: str) -> Any:
    """What is painted: (row, column, red green blue alpha)."""
    script = """
      const canvas = document.querySelector(arguments[0]);
      const {width, height} = canvas;
      const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
      return [height, width, Array.from(data)];
    """
    height, width, found = shown.js(script, css)
    return np.array(found).reshape(height, width, 4)


def test_the_unrolled_layer_shows_every_layer_and_direction(page: Any) -> None:
    tr = stacked().labelled(list("abcdefg"))
    shown = page(tr, "#time=3&row=1&unit=2&quantity=f")
    shown.opened("unrolled-section")
    assert [each.text for each in shown.all("#unrolled .lane button")] == [
        f"layer {layer}, {direction}"
        for layer in (1, 0)
        for direction in ("forward →", "reverse ←")
    ]
    assert [each.text for each in shown.all("#labels span")] == list("abcdefg")
    for layer in range(2):
        for d, direction in enumerate(("forward", "reverse")):
            strip = f".strip[data-layer='{layer}'][data-direction='{direction}']"
            painted = pixels(shown, f"{strip} canvas")[0]
            for time, value in enumerate(tr["f"][layer, d, 1, :, 2].tolist()):
                assert np.abs(painted[time, :3] - coloured(value, 0, 1, GATE)).max() < 2
    strip = shown.one(".strip[data-layer='1'][data-direction='reverse']")
    width = strip.rect["width"]
    ActionChains(shown.browser).move_to_element_with_offset(
        strip, int(5.5 / 7 * width - width / 2), 0
    ).click().perform()
    state = shown.js("return rnnscope.page.state")
    assert (state["layer"], state["direction"], state["time"]) == (1, "reverse", 5)
    shown.all("#unrolled .lane button")[2].click()
    state = shown.js("return rnnscope.page.state")
    assert (state["layer"], state["direction"], state["time"]) == (0, "forward", 5)


def test_every_map_is_painted_from_the_traces_numbers(page: Any) -> None:
    tr = packed()
    shown = page(tr, "#row=2&direction=reverse")
    shown.opened("maps-section")
    assert [each.get_attribute("data-map") for each in shown.all(".holder")] == list("xrznh")
    for name in "xrznh":
        plane = tr.layer_input(0)[2] if name == "x" else tr[name][0, 1, 2]
        painted = pixels(shown, f"[data-map='{name}'] canvas")
        assert painted.shape[:2] == (plane.shape[1], 6)
        told = tr.cell.range(name) if name != "x" else None
        most = max(map(abs, told)) if told else plane[:4].abs().max().item()
        low, stops = (0, GATE) if told == (0.0, 1.0) else (-most, SIGNED)
        for time in range(4):
            for unit in range(plane.shape[1]):
                expected = coloured(plane[time, unit].item(), low, most, stops)
                assert np.abs(painted[unit, time, :3] - expected).max() < 2
        assert (painted[:, 4:, 3] < 100).all()  # padding: grey, hatched
        assert len(np.unique(painted[:, 4:, 3])) == 2
    assert shown.text("#marks") == "Hatched: padding."
    shown.slide(shown.one("#playhead"), 2)
    mark = shown.one("[data-map='h'] .mark").rect
    holder = shown.one("[data-map='h']").rect
    assert mark["x"] - holder["x"] == pytest.approx(2 / 6 * holder["width"], abs=1)
    assert mark["width"] == pytest.approx(holder["width"] / 6, abs=1)


# --- reading the maps -----------------------------------------------------------------------------


def test_maps_tell_exact_values_under_the_pointer_and_by_keys(page: Any, browser: Any) -> None:
    tr = packed()
    shown = page(tr, "#row=2")
    shown.opened("maps-section")
    holder = shown.one("[data-map='z']")
    box = holder.rect
    for time, unit in ((0, 0), (3, 2), (5, 1)):
        dx = (time + 0.5) / 6 * box["width"] - box["width"] / 2
        dy = (unit + 0.5) / 4 * box["height"] - box["height"] / 2
        ActionChains(browser).move_to_element_with_offset(holder, int(dx), int(dy)).perform()
        told = shown.one("#readout")
        assert (told.get_attribute("data-time"), told.get_attribute("data-unit")) == (
            str(time),
            str(unit),
        )
        if time < 4:
            number = tr["z"][0, 0, 2, time, unit].item()
            assert close(told.get_attribute("data-value"), number)
        else:
            assert told.get_attribute("data-value") == "padding"
    holder = shown.one("[data-map='h']")
    shown.js("arguments[0].focus()", holder)
    holder.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    told = shown.one("#readout")
    time, unit = int(told.get_attribute("data-time")), int(told.get_attribute("data-unit"))
    assert close(told.get_attribute("data-value"), tr["h"][0, 0, 2, time, unit].item())
    holder.send_keys(Keys.ENTER)
    state = shown.js("return rnnscope.page.state")
    assert (state["time"], state["unit"], state["quantity"]) == (time, unit, "h")


def test_gradients_are_a_second_view_of_the_maps(page: Any) -> None:
    tr = stacked()
    g = tr.gradients(tr.output[:, -1].square().sum())
    shown = page(tr, "#layer=1&unit=1&view=gradients", gradients=g)
    shown.opened("maps-section")
    holder = shown.one("[data-map='c']")
    shown.js("arguments[0].focus()", holder)
    holder.send_keys(Keys.ARROW_RIGHT)
    told = shown.one("#readout")
    time, unit = (int(told.get_attribute(f"data-{k}")) for k in ("time", "unit"))
    assert close(told.get_attribute("data-value"), g["c"][1, 0, 0, time, unit].item())
    assert told.text.startswith("∂loss/∂c")


# --- edits ----------------------------------------------------------------------------------------


def planes(shown: Any, name: str) -> Any:
    """What the page holds of a quantity, of all layers and directions: (layer, direction, time,
    unit)."""
    script = """
      const {run, record} = rnnscope.page;
      return run.planes.map((row) => row.map((part) => Array.from(part[arguments[0]])));
    """
    found = np.array(shown.js(script, name))
    return found.reshape(*found.shape[:2], shown.js("return rnnscope.page.steps"), -1)


EDITS = {
    "an input": ("x@0.reverse.2.1:1.5", rs.Edit("x", layer=0, batch=1, time=2, unit=1, to=1.5)),
    "a gate": (
        "{gate}@0.reverse.4.3:0.25",
        rs.Edit("{gate}", layer=0, direction="reverse", batch=1, time=4, unit=3, to=0.25),
    ),
    "a state": (
        "h@1.forward.1.0:-0.5",
        rs.Edit("h", layer=1, direction="forward", batch=1, time=1, unit=0, to=-0.5),
    ),
}


@pytest.mark.parametrize("what", EDITS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.RNN, {}),
        (nn.GRU, {}),
        (nn.LSTM, {}),
        (nn.LSTM, {"proj_size": 3}),
        (nn.GRU, {"bias": False}),
    ],
)
def test_an_edit_gives_what_rerun_gives(page: Any, kind: Any, options: Any, what: str) -> None:
    tr = stacked(kind, **options)
    text, edit = EDITS[what]
    gate = tr.cell.gates[0]
    if edit.name == "{gate}":
        if gate == "h":
            gate = "h"
        at = {a: getattr(edit, a) for a in ("layer", "direction", "batch", "time", "unit")}
        edit = rs.Edit(gate, **at, to=edit.to)
    shown = page(tr, f"#row=1&edit={text.format(gate=gate)}")
    edited = tr.rerun(edit)
    for name in tr.cell.quantities:
        away = np.abs(planes(shown, name) - edited[name][:, :, 1].detach().numpy())
        assert away.max() < 1e-5, name
    assert np.abs(planes(shown, "h") - tr["h"][:, :, 1].numpy()).max() > 1e-3


def test_an_edit_in_a_padded_batch_leaves_the_padding(page: Any) -> None:
    tr = packed()
    shown = page(tr, "#row=1&edit=x@0.forward.1.1:2")
    edited = tr.rerun(rs.Edit("x", layer=0, batch=1, time=1, unit=1, to=2.0))
    assert np.abs(planes(shown, "h") - edited["h"][:, :, 1].numpy()).max() < 1e-5
    assert shown.js("return rnnscope.page.record.lengths[1]") == 2
    assert len(shown.all(".step")) == 2


def test_a_weight_of_any_layer_can_be_edited(page: Any) -> None:
    tr = stacked(nn.GRU)
    shown = page(tr, "#layer=1&edit=weight_hh_l1_reverse@7.2:0.75&edit=bias_ih_l0@3.0:-1")
    weights = {k: v.clone() for k, v in tr.parameters.items()}
    weights["weight_hh_l1_reverse"][7, 2] = 0.75
    weights["bias_ih_l0"][3] = -1
    changed = {k: weights[k] for k in ("weight_hh_l1_reverse", "bias_ih_l0")}
    edited = tr.rerun(weights=changed)
    assert np.abs(planes(shown, "h") - edited["h"][:, :, 0].detach().numpy()).max() < 1e-5
    assert len(shown.all("#edits li")) == 2
    shown.one("#edits li button").click()
    assert len(shown.all("#edits li")) == 1


def test_an_edit_is_typed_and_taken_back(page: Any) -> None:
    tr = stacked(nn.GRU)
    shown = page(tr, "#time=2&unit=1&edit=h@2.1:0.5")
    assert shown.text("#edits code") == "h, layer 0, forward, time=2, unit 1"
    typed = shown.one("#edits input")
    typed.clear()
    typed.send_keys("-0.75", Keys.TAB)
    edited = tr.rerun(rs.Edit("h", layer=0, direction="forward", batch=0, time=2, unit=1, to=-0.75))
    assert np.abs(planes(shown, "h") - edited["h"][:, :, 0].numpy()).max() < 1e-5
    assert close(shown.text("#arithmetic [data-quantity='h']"), -0.75)
    assert "set by your edit" in shown.text("#arithmetic")
    assert shown.text("#proof") == f"Before your edits: {tr.proof}"
    shown.one("#edits button").click()
    assert shown.all("#edits li") == []
    assert np.abs(planes(shown, "h") - tr["h"][:, :, 0].numpy()).max() == 0


def test_the_page_tells_how_far_its_arithmetic_is_from_pytorchs(page: Any) -> None:
    torch.manual_seed(3)
    lstm = nn.LSTM(3, 6, batch_first=True)
    x = torch.randn(2, 8, 3)
    tr = rs.trace(lstm, x)
    exact = rs.trace(lstm.double(), x.double())  # PyTorch's own arithmetic in float64
    shown = page(tr, "#row=1")
    away = max((tr[n][:, :, 1] - exact[n][:, :, 1]).abs().max().item() for n in tr.cell.quantities)
    assert float(shown.one("#own").get_attribute("data-deviation")) == pytest.approx(away, rel=1e-6)
    assert f"differs from PyTorch's numbers by at most {away:.0e} (" in shown.text("#own")


def test_a_gate_is_set_by_its_slider(page: Any) -> None:
    tr = stacked()
    shown = page(tr, "#time=2&quantity=f&unit=4")
    shown.opened("cell-section")
    shown.slide(shown.one("input[data-edit='f']"), 1)
    place = {"layer": 0, "direction": "forward", "batch": 0, "time": 2, "unit": 4}
    edited = tr.rerun(rs.Edit("f", **place, to=1.0))
    assert np.abs(planes(shown, "c") - edited["c"][:, :, 0].detach().numpy()).max() < 1e-5
    assert close(shown.text("[data-node='c'] output"), edited["c"][0, 0, 0, 2, 4].item())


def test_the_address_restores_what_was_seen(page: Any) -> None:
    shown = page(notebook(), "#time=1&edit=x@0:9")
    assert shown.js("return rnnscope.page.state.time") == 1
    assert shown.text("#chain output[data-quantity='x'][data-time='0']") == "9"
    kept = shown.js("return location.hash")
    assert kept == "#time=1&edit=x@0:9"
    shown.one(".box[data-time='2']").click()
    assert shown.js("return location.hash") == "#time=2&edit=x@0:9"


def test_the_address_holds_all_that_can_be_chosen(page: Any) -> None:
    projected = stacked(proj_size=2)  # c has more units than h
    hash = (
        "#time=3&layer=1&direction=reverse&row=1&unit=4&feature=3&quantity=c&view=change&hidden=1"
    )
    shown = page(projected, hash)
    assert shown.text("#notice") == ""
    assert shown.js("return location.hash") == hash
    state = shown.js("return rnnscope.page.state")
    assert (state["unit"], state["feature"], state["layer"], state["row"]) == (4, 3, 1, 1)


@pytest.mark.parametrize(
    "hash",
    [
        "#time=99",
        "#edit=x@7:1",
        "#edit=x@0:abc",
        "#time=%E0%A4",
        "#edit=q@0:1",
        "#what=1",
        "#unit=5",
        "#edit=x@0:1e999",
        "#edit=x@0:0x10",
        "#%E0%A4%A",
    ],
)
def test_a_damaged_address_is_ignored_and_told(page: Any, hash: str) -> None:
    shown = page(notebook(), hash)
    assert "ignored" in shown.text("#notice")
    assert len(shown.all("#chain output[data-quantity='h']")) == 3


def test_what_a_sequence_or_a_layer_does_not_have_is_told(page: Any) -> None:
    shown = page(packed(), "#row=1&time=4")  # two steps
    assert shown.text("#notice").endswith("ignored: time=4")
    shown.open("#row=1&edit=x@4:3")
    assert "x, layer 0, time=4" in shown.text("#notice")
    assert shown.all("#edits li") == []
    shown = page(stacked(proj_size=2), "#unit=4")  # h has two
    assert shown.text("#notice").endswith("ignored: unit=4")
    shown.open("#layer=0&feature=3")
    assert shown.text("#notice").endswith("ignored: feature=3")


def test_only_what_there_is_can_be_chosen(page: Any) -> None:
    shown = page(stacked(proj_size=2))
    count = "return document.getElementById('choose-' + arguments[0]).options.length"
    assert (shown.js(count, "unit"), shown.js(count, "feature")) == (2, 3)
    shown.js("rnnscope.page.set({ layer: 1, quantity: 'c' })")
    assert (shown.js(count, "unit"), shown.js(count, "feature")) == (5, 4)


def test_a_proof_that_leaves_something_open_has_no_tick(page: Any) -> None:
    mark = "return getComputedStyle(document.getElementById('proof'), '::before').content"
    assert "✓" in page(notebook()).js(mark)
    rnn = nn.RNN(1, 1, batch_first=True)
    assert "✓" not in page(rs.trace(rnn, torch.tensor([[[1.0], [math.nan]]]))).js(mark)
    assert "✓" not in page(rs.trace(rnn, torch.ones(1, 2, 1), check=False)).js(mark)


# --- tokens, predictions, a text of one's own ----------------------------------------------------

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "<unk>"]


class Speaker(nn.Module):
    """Embedding (or one-hot) → layer → linear: what a typed text is judged by."""

    def __init__(self, layer: nn.RNNBase, vocabulary: list[str], embedded: bool) -> None:
        super().__init__()
        self.vocabulary, self.layer = vocabulary, layer
        self.embedding = nn.Embedding(len(vocabulary), layer.input_size) if embedded else None
        width = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
        self.linear = nn.Linear(width, len(vocabulary))

    def input(self, tokens: list[str]) -> torch.Tensor:
        ids = torch.tensor([[self.vocabulary.index(token) for token in tokens]])
        if self.embedding is None:
            return nn.functional.one_hot(ids, len(self.vocabulary)).float()
        return self.embedding(ids)

    @torch.no_grad()
    def forward(self, tokens: list[str]) -> torch.Tensor:
        return self.linear(self.layer(self.input(tokens))[0])[0].softmax(-1)

    def show(self, page: Any, tokens: list[str], hash: str = "", **options: Any) -> Any:
        tr = rs.trace(self.layer, self.input(tokens).detach())
        given = {"readout": self.linear, "vocabulary": self.vocabulary} | options
        return page(tr, hash, embedding=self.embedding, **given)


def speaker(kind: Any = nn.GRU, embedded: bool = True, **options: Any) -> Speaker:
    torch.manual_seed(5)
    width = 4 if embedded else len(WORDS)
    made = Speaker(kind(width, 6, batch_first=True, **options), WORDS, embedded)
    with torch.no_grad():
        made.linear.weight *= 4  # predictions that differ from step to step
    return made


def probabilities(shown: Any) -> Any:
    """What the page holds of every step that is shown: (time, class)."""
    script = """
      const { run, state, model, steps } = rnnscope.page;
      const every = (time) => Array.from(model.whole(run, state.row, time).values);
      return Array.from({ length: steps }, (_, time) => every(time));
    """
    return np.array(shown.js(script), dtype=float)


@pytest.mark.parametrize(
    ("kind", "embedded", "options"),
    [
        (nn.RNN, True, {"nonlinearity": "relu"}),
        (nn.GRU, False, {}),
        (nn.LSTM, True, {}),
        (nn.GRU, True, {"num_layers": 2, "dropout": 0.5}),
        (nn.LSTM, False, {"bidirectional": True, "bias": False}),
        (nn.LSTM, True, {"num_layers": 2, "bidirectional": True, "proj_size": 3}),
    ],
)
def test_a_typed_text_is_predicted_as_pytorch_does(
    page: Any, kind: Any, embedded: bool, options: Any
) -> None:
    model = speaker(
        kind, embedded, **options
    )  # its dropout works in the traced call, not in a text
    shown = model.show(page, ["the", "cat", "sat"])
    shown.type("a dog  sat on the mat ")
    tokens = ["a", "dog", "sat", "on", "the", "mat"]
    expected = model.eval()(tokens).numpy()
    found = probabilities(shown)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5
    assert [each.text for each in shown.all(".in .label")] == tokens
    for time, every in enumerate(shown.all(".predicted")):
        items = every.find_elements("css selector", "li")
        order = np.argsort(-expected[time])[:5]
        assert [
            each.get_attribute("title") for each in every.find_elements("css selector", ".class")
        ] == [WORDS[k] for k in order]
        for item, k in zip(items, order, strict=True):
            assert abs(float(item.get_attribute("data-value")) - expected[time, k]) < 1e-5
            assert item.text.endswith(f"{100 * expected[time, k]:.1f}%")
    # at the last token: six digits, and the logit from its products
    last = shown.all("#prediction .classes tbody tr")
    assert [each.text.split()[0] for each in last[:5]] == [
        WORDS[k] for k in np.argsort(-expected[-1])[:5]
    ]
    assert close(last[0].text.split()[1], float(expected[-1].max()))
    assert last[5].text.startswith("5 others")
    assert close(last[5].text.split()[-1], float(np.sort(expected[-1])[:5].sum()))
    products = shown.all("#prediction .products tr")
    logit = float(shown.text("#prediction .products .filled").removeprefix("= "))
    assert sum(float(each.text.split()[-1]) for each in products) == pytest.approx(logit, abs=1e-5)
    assert shown.text("#proof").startswith("Your text, read by the page's own arithmetic")


def test_predictions_of_the_trace_are_pytorchs_own_and_follow_an_edit(page: Any) -> None:
    model = speaker(nn.LSTM, bidirectional=True)
    tokens = ["the", "cat", "sat", "on"]
    shown = model.show(page, tokens, "#time=2")
    expected = model(tokens)
    for time, every in enumerate(shown.all(".predicted")):
        told = [
            float(each.get_attribute("data-value"))
            for each in every.find_elements("css selector", "li")
        ]
        assert told == pytest.approx(expected[time].topk(5).values.tolist(), abs=1e-7)
    assert float(shown.one("#own").get_attribute("data-predictions")) < 1e-6
    assert "predictions by at most" in shown.text("#own")
    tr = rs.trace(model.layer, model.input(tokens).detach())
    shown.slide(shown.one("#chain input[data-time='3']"), 2.5)
    edited = tr.rerun(rs.Edit("x", layer=0, batch=0, time=3, unit=0, to=2.5))
    with torch.no_grad():
        expected = model.linear(edited.output)[0].softmax(-1)
    assert np.abs(probabilities(shown) - expected.numpy()).max() < 1e-5
    first = shown.one(
        ".predicted[data-time='0'] li"
    )  # the reverse direction brings it to the first step
    assert abs(float(first.get_attribute("data-value")) - float(expected[0].max())) < 1e-5
    shown.all("#prediction .term.class")[1].click()
    assert shown.text("#prediction tr.chosen th") == shown.all("#prediction tbody th")[1].text
    shown.one("#prediction .products .term").click()
    assert shown.js("return rnnscope.page.state.quantity") == "h"


def test_a_readout_of_stages_and_one_of_a_single_number(page: Any) -> None:
    torch.manual_seed(0)
    rnn = nn.RNN(3, 4, batch_first=True)
    head = nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3), nn.LogSoftmax(-1)
    )
    tr = rs.trace(rnn, torch.eye(3)[None])
    shown = page(tr, readout=head.eval(), vocabulary=list("abc"), classes=["no", "yes", "both"])
    shown.type("cab")
    with torch.no_grad():
        expected = head(rnn(torch.eye(3)[None, [2, 0, 1]])[0])[0].exp()
    assert np.abs(probabilities(shown) - expected.numpy()).max() < 1e-5
    assert set(shown.text(".predicted").split()[::2]) == {"no", "yes", "both"}
    one = nn.Linear(4, 1)
    shown = page(tr, readout=one, vocabulary=list("abc"))
    for item, value in zip(
        shown.all(".predicted li"), one(tr.output)[0, :, 0].tolist(), strict=True
    ):
        assert close(item.text, value)


def test_what_is_not_in_the_vocabulary_is_told(page: Any) -> None:
    model = speaker(embedded=True)
    shown = model.show(page, ["the", "cat"])
    shown.type("the bird sat")  # there is an <unk>
    assert shown.text("#said") == "Read as <unk>, as they are not in the vocabulary: “bird”."
    expected = model(["the", "<unk>", "sat"]).numpy()
    assert np.abs(probabilities(shown) - expected).max() < 1e-5
    assert [each.text for each in shown.all(".in .label")] == ["the", "bird", "sat"]
    letters = Speaker(nn.RNN(4, 3, batch_first=True), ["<pad>", "a", "b", "\n"], False)
    shown = letters.show(page, ["a", "b"])
    typed = shown.one("#typed")
    shown.type("ab")
    before = probabilities(shown)
    shown.type("é<img src=x>")
    told = shown.text("#said")
    assert told.startswith("Not in the vocabulary: “é”, “<”, “i”, “m”, “g” and ")
    assert "Nothing was read. The vocabulary: “<pad>” “a” “b” “⏎”." in told
    assert typed.get_attribute("aria-invalid") == "true"
    assert np.array_equal(probabilities(shown), before)
    typed.clear()
    shown.type("a\n<pad>A")
    assert "“A” (“a” is)" in shown.text("#said")
    typed.send_keys(Keys.BACKSPACE, Keys.TAB)
    assert shown.text("#said") == ""
    assert [each.text for each in shown.all(".in .label")] == ["a", "⏎", "<pad>"]
    assert np.abs(probabilities(shown) - letters(["a", "\n", "<pad>"]).numpy()).max() < 1e-5
    shown.js("rnnscope.page.type('')")
    assert shown.js("return rnnscope.page.record.rows") == [0]
    shown.js(
        "arguments[0].value = 'a'.repeat(2001); arguments[0].dispatchEvent(new Event('change'))",
        typed,
    )
    assert "2001 tokens; the page reads 2000 at most" in shown.text("#said")


def test_a_typed_text_is_a_sequence_like_any_other(page: Any) -> None:
    model = speaker(nn.GRU, bidirectional=True)
    shown = model.show(
        page,
        ["the", "cat", "sat"],
        "#text=a%20dog%20ran%20on&time=1&layer=0&direction=reverse&unit=2&edit=x@3.1:0.5",
    )
    assert shown.text("#notice") == ""
    tokens = ["a", "dog", "ran", "on"]
    assert shown.one("#typed").get_attribute("value") == "a dog ran on"
    tr = rs.trace(model.layer, model.input(tokens).detach())
    edited = tr.rerun(rs.Edit("x", layer=0, batch=0, time=3, unit=1, to=0.5))
    for name in tr.cell.quantities:
        assert np.abs(planes(shown, name) - edited[name][:, :, 0].detach().numpy()).max() < 1e-5
    for section in ("cell-section", "unrolled-section", "maps-section"):
        shown.opened(section)
    assert pixels(shown, "[data-map='h'] canvas").shape[1] == 4
    assert close(shown.text("[data-node='z'] output"), edited["z"][0, 1, 0, 1, 2].item())
    hash = shown.js("return location.hash")
    assert hash == "#text=a%20dog%20ran%20on&time=1&direction=reverse&unit=2&edit=x@3.1:0.5"
    shown.open(hash)
    assert shown.js("return location.hash") == hash
    shown.type(" a")  # an edit of the input would replace a token silently
    assert shown.all("#edits li") == []
    shown.one("#back").click()
    assert [each.text for each in shown.all(".in .label")] == ["the", "cat", "sat"]
    assert "text=" not in shown.js("return location.hash")
    shown.open("#text=nothing%20like%20it&time=0")
    assert shown.text("#notice") == ""  # read as <unk>
    shown.open("#text=")
    assert shown.text("#notice") == ""


def test_without_what_makes_a_token_a_number_no_text_is_typed(page: Any) -> None:
    torch.manual_seed(0)
    tr = rs.trace(nn.GRU(4, 5), torch.randn(3, 1, 4))
    shown = page(tr, "#text=a", readout=nn.Linear(5, 3), vocabulary=list("abc"))
    assert not shown.one("#typing").is_displayed()
    assert "No text can be typed here: the layer reads 4 numbers a step" in shown.text("#untyped")
    assert shown.text("#notice").endswith("ignored: text=a")
    assert len(shown.all(".predicted li")) == 9
    shown = page(tr, vocabulary=list("abcd"))
    assert "the layer's input is not one-hot" in shown.text("#untyped")


def test_the_text_is_coloured_by_a_chosen_unit(page: Any) -> None:
    tr = stacked().labelled(["a", " ", "b", "<b>x</b>", "\n", "", "é"])
    shown = page(tr, "#row=1&unit=2&quantity=f&layer=1&direction=reverse&time=3")
    script = """
      return [...document.querySelectorAll("#tokens .token")].map((token) =>
        [token.style.background, token.style.color, token.textContent, token.className]);
    """
    tokens = shown.js(script)
    assert [text for _, _, text, _ in tokens] == ["a", "␣", "b", "<b>x</b>", "⏎", " ", "é"]
    assert [("now" in names) for *_, names in tokens] == [k == 3 for k in range(7)]
    for (background, ink, _, _), value in zip(tokens, tr["f"][1, 1, 1, :, 2].tolist(), strict=True):
        colour = [int(v) for v in background.removeprefix("rgb(").removesuffix(")").split(",")]
        assert np.abs(np.array(colour) - coloured(value, 0, 1, GATE)).max() < 2
        shares = [
            (c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in colour
        ]
        light = float(np.dot(shares, [0.2126, 0.7152, 0.0722]))
        contrast = 1.05 / (light + 0.05) if "255" in ink else (light + 0.05) / 0.05
        assert contrast >= 4.5
    assert shown.text("#tokens-hint").startswith("Colour: f (forget) of unit 2, layer 1, reverse")
    shown.all("#tokens .token")[5].click()
    assert shown.js("return rnnscope.page.state.time") == 5
    other = shown.js(script)
    script_unit = """
      const unit = document.getElementById("choose-unit");
      unit.value = 4;
      unit.dispatchEvent(new Event("change"));
    """
    shown.js(script_unit)
    assert shown.js(script) != other
    shown.one("#hide").click()
    assert (
        shown.js(
            "return getComputedStyle(document.querySelector('#tokens .token')).backgroundColor"
        )
        == "rgba(0, 0, 0, 0)"
    )


def test_a_prediction_that_is_no_number_is_told(page: Any) -> None:
    model = speaker()
    with torch.no_grad():
        model.linear.bias[3] = math.nan
    shown = model.show(page, ["the", "cat"])
    assert {each.text.split()[-1] for each in shown.all(".predicted li")} == {"NaN"}
    shown.type("a dog")
    assert np.isnan(probabilities(shown)).all()
    assert {each.text.split()[-1] for each in shown.all(".predicted li")} == {"NaN"}
    with torch.no_grad():
        model.linear.bias[3] = -math.inf  # a class that never comes
    shown = model.show(page, ["the", "cat"])
    shown.type("a dog")
    found = probabilities(shown)
    assert np.abs(found - model(["a", "dog"]).numpy()).max() < 1e-5
    assert (found[:, 3] == 0).all()
    with torch.no_grad():
        model.embedding.weight[7, 0] = math.nan
    shown = model.show(page, ["the", "cat"])
    shown.type("a dog")
    assert np.isnan(probabilities(shown)).all(axis=1).tolist() == [False, True]


# --- play, tour, what a number depends on, what is hidden ----------------------------------------

CLOCK = """
  window.setInterval = (f, pace) => { window.tick = f; window.pace = pace; return 7; };
  window.clearInterval = (id) => { if (id === 7) window.tick = null; };
"""


def test_play_goes_step_by_step_and_stops_at_the_end(page: Any) -> None:
    shown = page(stacked(), "#time=5&layer=1")
    shown.js(CLOCK)
    seen = []

    def tick() -> None:
        shown.js("window.tick()")
        seen.append(shown.js("return [rnnscope.page.state.time, window.tick !== null]"))

    shown.one("#play").send_keys(Keys.ENTER)
    assert shown.one("#play").get_attribute("aria-label") == "Pause"
    assert shown.one("#arithmetic").get_attribute("aria-live") == "off"
    assert shown.js("return window.pace") == 900
    tick()
    assert seen == [[6, False]]  # the last step: it stops by itself
    assert shown.one("#play").get_attribute("aria-label") == "Play the steps"
    shown.one("#play").click()  # from the end it begins anew
    assert shown.js("return rnnscope.page.state.time") == 0
    tick()
    tick()
    assert seen[1:] == [[1, True], [2, True]]
    shown.one("#next").click()  # whoever moves takes over
    assert shown.js("return [rnnscope.page.state.time, window.tick]") == [3, None]
    shown.one("#play").click()
    shown.one("body").send_keys(Keys.ESCAPE)
    assert shown.js("return window.tick") is None
    shown.js("rnnscope.page.set({ direction: 'reverse', time: 1 })")
    shown.one("#play").click()
    tick()
    assert seen[-1] == [0, False]  # as the direction reads
    shown.media(features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    shown.one("#play").click()
    assert shown.js("return window.pace") == 1800
    style = "return getComputedStyle(document.getElementById('scroller')).scrollBehavior"
    assert shown.js(style) == "auto"


def test_the_tour_has_five_stops_and_goes_by_keyboard(page: Any) -> None:
    model = speaker(nn.LSTM)
    shown = model.show(page, ["the", "cat", "sat"])
    shown.media(features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    shown.one("#tour-start").send_keys(Keys.ENTER)
    titles, marked = [], []
    toured = """
      return [...document.querySelectorAll(".toured")].map(
        (each) => each.id || each.className.split(" ")[0]);
    """
    for _ in range(5):
        titles.append(shown.text("#tour-title"))
        assert shown.js("return document.activeElement.id") == "tour-title"
        marked += shown.js(toured)
        visible = """
          const box = document.querySelector(".toured").getBoundingClientRect();
          return box.bottom > 0 && box.top < innerHeight;
        """
        assert shown.js(visible)
        shown.one("#tour-next").send_keys(Keys.ENTER)
    assert [each.split(": ")[1] for each in titles] == [
        "What you see",
        "The step",
        "The gates",
        "Drag a number",
        "The prediction",
    ]
    assert marked == ["scroller", "arithmetic", "cell-section", "in", "prediction"]
    assert not shown.one("#tour").is_displayed()
    assert shown.js("return document.activeElement.id") == "tour-start"
    assert not shown.js("return document.getElementById('cell-section').open")  # as it was
    shown.one("#tour-start").click()
    shown.one("#tour-next").click()
    shown.one("#tour-back").click()
    assert shown.text("#tour-title").startswith("1 of 5")
    shown.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not shown.one("#tour").is_displayed()
    shown = page(notebook())
    shown.one("#tour-start").click()
    found = []
    for _ in range(5):
        found.append(shown.text("#tour-title").split(": ")[1])
        shown.one("#tour-next").click()
    assert found == ["What you see", "The step", "Inside the cell", "Drag a number", "Every number"]


def reached(shown: Any, css: str) -> list[int]:
    """The steps at which something of the chain, or a token, is lit."""
    script = """
      return [...document.querySelectorAll(arguments[0])].map((each) =>
        Number(each.closest("[data-time]").dataset.time));
    """
    found: list[int] = shown.js(script, f"{css}.reached")
    return found


def lit_nodes(shown: Any) -> list[str]:
    script = """
      return [...document.querySelectorAll("#graph .node.reached")].map(
        (node) => node.dataset.node ?? node.dataset.origin).sort();
    """
    found: list[str] = shown.js(script)
    return found


def influence(model: Any, x: torch.Tensor, of: Any) -> list[int]:
    """The steps of the input that move a number, by autograd."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of(model, x), x)
    return gradient[0].abs().sum(-1).nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("layer", "direction"),
    [
        (0, "forward"),
        (1, "reverse"),
        pytest.param(0, "reverse", marks=pytest.mark.slow),
        pytest.param(1, "forward", marks=pytest.mark.slow),
    ],
)
def test_what_is_pointed_at_lights_all_that_it_depends_on(
    page: Any, layer: int, direction: str
) -> None:
    model = speaker(nn.LSTM, num_layers=2, bidirectional=True)
    tokens = ["the", "cat", "sat", "on", "a", "mat"]
    shown = model.show(page, tokens, f"#time=2&layer={layer}&direction={direction}")
    x = model.input(tokens).detach()
    d = ["forward", "reverse"].index(direction)
    stack = nn.LSTM(4, 6, num_layers=layer + 1, bidirectional=True, batch_first=True)
    stack.load_state_dict(
        {k: v for k, v in model.layer.state_dict().items() if k in stack.state_dict()}
    )
    expected = influence(stack, x, lambda m, x: m(x)[0][0, 2, d * 6 : d * 6 + 6].sum())
    for section in ("cell-section", "unrolled-section"):
        shown.opened(section)
    ActionChains(shown.browser).move_to_element(shown.one(".box[data-time='2']")).perform()
    assert reached(shown, "#tokens .token") == expected
    assert reached(shown, "#chain .out") == ([0, 1, 2] if direction == "forward" else [2, 3, 4, 5])
    if layer == 0:
        assert reached(shown, "#chain .in") == expected
    assert shown.text("#depends").startswith(
        f"h at time=2 depends on x at time={expected[0]} to time={expected[-1]}"
    )
    assert len(shown.all(".strip .reach")) == (1 if layer == 0 else 3)
    # inside the cell: c is made of f, i, g and what is before, not of o and h
    ActionChains(shown.browser).move_to_element(shown.one("[data-node='c']")).perform()
    lit = lit_nodes(shown)
    assert lit == ["before-c", "before-h", "c", "f", "g", "i", "x"]
    ActionChains(shown.browser).move_to_element(shown.one("[data-node='f']")).perform()
    lit = lit_nodes(shown)
    # of the state before, h, which was made of its c
    assert lit == ["before-c", "before-h", "f", "x"]
    ActionChains(shown.browser).move_to_element(shown.one(".predicted[data-time='1']")).perform()
    assert reached(shown, "#tokens .token") == influence(
        model, x, lambda m, x: m.linear(m.layer(x)[0])[0, 1].sum()
    )
    ActionChains(shown.browser).move_to_element(shown.one("#title")).perform()
    assert shown.all(".reached") == []
    shown.js("document.querySelector('.box[data-time=\"2\"]').focus()")  # by keyboard too
    assert reached(shown, "#tokens .token") == expected


def test_a_cell_without_memory_depends_on_its_own_step_alone(page: Any) -> None:
    cell = Cell("fresh", "n", {"n": tanh(from_x("n")), "h": quantity("n")})
    shown = page(rs.trace(rs.Recurrent(cell, 2, 3), torch.randn(4, 1, 2)), "#time=2")
    ActionChains(shown.browser).move_to_element(shown.one(".box[data-time='2']")).perform()
    assert reached(shown, "#chain .in") == [2]
    assert shown.text("#depends") == "h at time=2 depends on x at time=2."


def test_a_page_shows_the_weights_and_shares_that_the_cell_has(page: Any) -> None:
    z, n = quantity("z"), quantity("n")
    gates = {"z": sigmoid(from_x("z")), "n": from_x("n")}
    mingru = Cell("minGRU", "zn", {**gates, "h": (1 - z) * previous("h") + z * n})
    shown = page(rs.trace(rs.Recurrent(mingru, 2, 3), torch.randn(3, 1, 2)))
    assert [each.text for each in shown.all(".card strong")] == ["W_ih", "b_ih"]
    assert not shown.one("#share-hint").is_displayed()
    # a gate without a product of the state has no rows in W_hh: rows are those of the parameter
    half = Cell(
        "half",
        "zn",
        {**gates, "n": tanh(from_x("n") + from_h("n")), "h": (1 - z) * previous("h") + z * n},
    )
    torch.manual_seed(0)
    layer = rs.Recurrent(half, 2, 3)
    tr = rs.trace(layer, torch.randn(4, 1, 2))
    shown = page(tr, "#time=2&unit=1&quantity=n&edit=weight_hh_l0@1.2:0.75")
    weights = {k: v.clone() for k, v in tr.parameters.items()}
    assert weights["weight_hh_l0"].shape == (3, 3)
    weights["weight_hh_l0"][1, 2] = 0.75
    edited = tr.rerun(weights={"weight_hh_l0": weights["weight_hh_l0"]})
    assert np.abs(planes(shown, "h") - edited["h"][:, :, 0].detach().numpy()).max() < 1e-5
    shown.opened("cell-section")
    names = [each.text for each in shown.all(".leaves code")]
    assert "weight_hh_l0[1, 2]" in names
    assert "weight_ih_l0[4, 0]" in names
    assert shown.text(".card.of-hh .gate") == "gate n, unit 1"


def test_the_share_is_of_the_product_that_stands_in_the_equation(page: Any) -> None:
    """The reset before the product: W_hn (r × h), not W_hn h."""
    r, z, n = quantity("r"), quantity("z"), quantity("n")
    cell = Cell(
        "before",
        "rzn",
        {
            "r": sigmoid(from_x("r") + from_h("r")),
            "z": sigmoid(from_x("z") + from_h("z")),
            "n": tanh(from_x("n") + from_h("n", r * previous("h"))),
            "h": (1 - z) * n + z * previous("h"),
        },
    )
    torch.manual_seed(0)
    tr = rs.trace(rs.Recurrent(cell, 2, 3), torch.randn(4, 1, 2))
    shown = page(tr, "#unit=1")
    w_ih, w_hh = (
        tr.parameters[name].reshape(3, 3, -1)[:, 1] for name in ("weight_ih_l0", "weight_hh_l0")
    )
    for time in (1, 2, 3):
        h, r_t = tr["h"][0, 0, 0, time - 1], tr["r"][0, 0, 0, time]
        of_h = float((w_hh[:2] @ h).abs().sum() + (w_hh[2] @ (r_t * h)).abs())
        of_x = float((w_ih @ tr.layer_input(0)[0, time]).abs().sum())
        assert shown.all(".share")[time].text == f"{round(100 * of_h / (of_h + of_x))}%"


@pytest.mark.parametrize("address", ["?hidden=1", "?hidden=1#time=2", "#hidden=1"])
def test_hidden_stands_in_the_query_as_in_the_hash(page: Any, address: str) -> None:
    shown = page(notebook(), address)
    assert shown.text("#notice") == ""
    assert not shown.one("#chain output[data-quantity='h'][data-time='1']").is_displayed()
    assert shown.js("return rnnscope.page.state.time") == (2 if "time=2" in address else 1)
    shown.one("#hide").click()
    assert "hidden" not in shown.js("return location.search + location.hash")
    shown = page(notebook(), "?token=1&hidden=2&time=0")
    assert shown.text("#notice").endswith("ignored: hidden=2")
    assert shown.js("return location.search + location.hash") == "?token=1#time=0"


def test_a_page_is_made_without_what_a_teacher_leaves_out(page: Any) -> None:
    model = speaker()
    parts = {
        "weights": "#weights",
        "arithmetic": "#arithmetic",
        "text": "#text-section",
        "prediction": "#prediction",
        "cell": "#cell-section",
        "unrolled": "#unrolled-section",
        "maps": "#maps-section",
    }
    title = '<b>Week 3</b> & "gates"'
    shown = model.show(
        page, ["the", "cat"], hide=["results", "weights", "maps", "prediction"], title=title
    )
    assert shown.text("#title") == title
    assert shown.browser.title == f"{title} · rnnscope"
    assert shown.text("#construction") == "nn.GRU(4, 6, batch_first=True)"
    for part, css in parts.items():
        assert shown.one(css).is_displayed() == (part not in ("weights", "maps", "prediction")), (
            part
        )
    assert not shown.one(".predicted").is_displayed()
    assert not shown.one("#chain output[data-quantity='h']").is_displayed()
    shown.one("#hide").click()
    assert shown.one("#chain output[data-quantity='h']").is_displayed()
    assert not shown.one(".predicted").is_displayed()


def test_tokens_and_classes_stay_text(page: Any) -> None:
    hostile = ["<img src=x onerror=alert(1)>", "</script><b>", "\u202e", "a"]
    torch.manual_seed(0)
    tr = rs.trace(nn.RNN(4, 3, batch_first=True), torch.eye(4)[None])
    shown = page(tr, readout=nn.Linear(3, 4), vocabulary=hostile)
    shown.type("</script><b> a <img>")
    assert "“<img>”" in shown.text("#said")
    for section in ("cell-section", "unrolled-section", "maps-section"):
        shown.opened(section)
    assert shown.all("img, main b") == []
    assert {each.get_attribute("title") for each in shown.all(".predicted .class")} == set(hostile)


# --- other data -----------------------------------------------------------------------------------


def test_labels_stay_text(page: Any) -> None:
    hostile = ["<img src=x onerror=alert(1)>", "</script><b>", "&amp;  ́"]
    tr = notebook().labelled(hostile)
    shown = page(tr)
    assert [each.get_attribute("title") for each in shown.all(".in .label")] == hostile
    assert shown.all("img") == []
    assert hostile[1] in shown.text("#where")


def test_what_is_no_number_is_shown_as_such(page: Any) -> None:
    rnn = nn.RNN(1, 1, bias=False, batch_first=True)
    tr = rs.trace(rnn, torch.tensor([[[1.0], [math.inf], [math.nan]]]))
    shown = page(tr)
    x = [each.text for each in shown.all("#chain output[data-quantity='x']")]
    assert x == ["1", "inf", "NaN"]
    h = [each.text for each in shown.all("#chain output[data-quantity='h']")]
    assert close(h[0], tr["h"].flatten()[0].item())
    assert h[2] == "NaN"
    for section in ("cell-section", "unrolled-section", "maps-section"):
        shown.opened(section)
    magenta = [200, 0, 160, 255]
    assert pixels(shown, "[data-map='x'] canvas")[0, 1:].tolist() == [magenta] * 2
    assert pixels(shown, ".strip canvas")[0, 2].tolist() == magenta
    assert shown.text("#marks") == "Magenta: NaN or infinite."
    assert "Magenta" in shown.text("#unrolled-hint")
    holder = shown.one("[data-map='x']")
    ActionChains(shown.browser).move_to_element(holder).perform()
    assert shown.text("#readout") == "x[feature 0] at time=1 = inf"


def test_a_cell_of_ones_own_runs_in_the_page(page: Any) -> None:
    half = 0.5
    leaky = Cell(
        name="leaky",
        gates="n",
        equations={
            "n": tanh(from_x("n") + from_h("n")),
            "h": half * previous("h") + half * quantity("n"),
        },
    )
    torch.manual_seed(0)
    tr = rs.trace(rs.Recurrent(leaky, 2, 3), torch.randn(5, 1, 2))
    shown = page(tr, "#time=2&unit=1&edit=n@1.1:0.5")
    edited = tr.rerun(rs.Edit("n", layer=0, batch=0, time=1, unit=1, to=0.5))
    for name in ("n", "h"):
        assert np.abs(planes(shown, name) - edited[name][:, :, 0].detach().numpy()).max() < 1e-5
    shown.opened("cell-section")
    assert close(shown.text("[data-node='n'] output"), edited["n"][0, 0, 0, 2, 1].item())
    assert shown.text(".box") == "leaky"


def test_a_function_without_javascript_is_shown_and_not_computed(page: Any) -> None:
    square = Function(
        name="squash",
        symbol="squash",
        latex="s",
        forward=lambda a: a / (1 + a.abs()),
        forward_=lambda a: a.div_(1 + a.abs()),
        derivative=lambda y: (1 - y.abs()) ** 2,
        steepest=1.0,
        range=(-1.0, 1.0),
        through_zero=True,
        script="",
    )
    cell = Cell(name="mine", gates="h", equations={"h": apply(square, from_x("h") + from_h("h"))})
    tr = rs.trace(rs.Recurrent(cell, 1, 2), torch.randn(4, 1, 1))
    shown = page(tr, "#edit=x@0:1")
    assert "cannot compute squash" in shown.text("#arithmetic")
    assert close(shown.text("#chain output[data-quantity='h']"), tr["h"][0, 0, 0, 0, 0].item())
    assert shown.one("#chain input").get_attribute("disabled")
    assert [each.text for each in shown.all(".share")] == [""] * 4  # no 0%, which it is not
    torch.manual_seed(0)
    linear = nn.Linear(2, 3)
    tr = rs.trace(rs.Recurrent(cell, 3, 2), torch.eye(3)[:, None])
    shown = page(tr, "#text=a", readout=linear, vocabulary=list("abc"))
    assert "No text can be typed here: this page cannot compute squash." in shown.text("#untyped")
    assert "PyTorch's own predictions" in shown.text("#prediction")
    most = [each.get_attribute("title") for each in shown.all(".predicted li:first-child .class")]
    assert most == ["abc"[k] for k in linear(tr.output)[:, 0].argmax(-1)]


def test_numbers_in_float64_keep_their_digits(page: Any) -> None:
    torch.manual_seed(0)
    tr = rs.trace(nn.LSTM(2, 3).double(), torch.randn(5, 1, 2).double())
    shown = page(tr, "#edit=x@1.0:0.5")
    edited = tr.rerun(rs.Edit("x", layer=0, batch=0, time=1, unit=0, to=0.5))
    assert np.abs(planes(shown, "c") - edited["c"][:, :, 0].detach().numpy()).max() < 1e-10
    assert float(shown.one("#own").get_attribute("data-deviation")) < 1e-12


# --- forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["numbers", "text"])
def test_nothing_is_wider_than_a_narrow_window(page: Any, form: str) -> None:
    shown = page(stacked()) if form == "numbers" else speaker().show(page, ["the", "cat", "sat"])
    shown.size(360)
    if form == "text":
        shown.type("a dog " * 20 + "antidisestablishmentarianism" * 3)
        shown.one("#tour-start").click()
        assert shown.one("#tokens").get_attribute("tabindex") == "0"  # its lines scroll
        inside = """
          const box = document.getElementById("tokens").getBoundingClientRect();
          const now = document.querySelector("#tokens .now").getBoundingClientRect();
          return now.top >= box.top && now.bottom <= box.bottom;
        """
        assert shown.js(inside)
    for section in ("cell-section", "unrolled-section", "maps-section"):
        shown.opened(section)
    assert shown.js("return document.documentElement.scrollWidth") <= 360


def test_light_and_dark(page: Any) -> None:
    shown = page(notebook())
    shown.media(features=[{"name": "prefers-color-scheme", "value": "dark"}])
    shown.open()

    def paper() -> str:
        found: str = shown.js("return getComputedStyle(document.body).backgroundColor")
        return found

    dark = paper()
    shown.one("#theme").click()
    assert paper() != dark
    assert sum(map(int, dark[4:-1].split(","))) < 150


def test_everything_is_reached_and_used_by_keyboard(page: Any) -> None:
    tr = stacked()
    shown = page(tr, "#edit=x@0:1")
    for section in ("cell-section", "unrolled-section", "maps-section"):
        heading = shown.one(f"#{section} summary")
        shown.js("arguments[0].focus()", heading)
        heading.send_keys(Keys.ENTER)
        assert shown.js("return document.getElementById(arguments[0]).open", section)
    used = """
      return [...document.querySelectorAll("button, input, select, summary, .holder")].filter(
        (each) => !each.disabled && each.offsetParent && (each.type !== "radio" || each.checked));
    """
    shown.js("document.activeElement.blur(); window.scrollTo(0, 0)")
    expected, reached = shown.js(used), []
    shown.one("body").send_keys(Keys.TAB)
    for _ in range(len(expected) + 20):
        reached.append(shown.browser.switch_to.active_element)
        reached[-1].send_keys(Keys.TAB)
    lost = [each.get_attribute("outerHTML")[:80] for each in expected if each not in reached]
    assert lost == []
    named = """
      const name = (each) => each.getAttribute("aria-label") || each.labels?.[0]?.textContent.trim()
        || (each.tagName === "BUTTON" && each.textContent.trim());
      return [...document.querySelectorAll("button, input, select, .holder")]
        .filter((each) => !name(each)).map((each) => each.outerHTML.slice(0, 80));
    """
    assert shown.js(named) == []


def test_all_is_open_and_drawn_on_paper(page: Any) -> None:
    shown = page(notebook())
    script = """
      window.dispatchEvent(new Event("beforeprint"));
      return [document.querySelectorAll("#explanation .filled").length,
        document.querySelectorAll(".wires path").length,
        document.querySelector("[data-map='h'] canvas").width];
    """
    assert shown.js(script) == [4, 2, 3]  # at once: the paper does not wait
    assert shown.js("return [...document.querySelectorAll('details')].every((d) => d.open)")
    shown.media(media="print")
    assert not shown.one("nav").is_displayed()
    shown.js("window.dispatchEvent(new Event('afterprint'))")
    assert not shown.js("return [...document.querySelectorAll('details')].some((d) => d.open)")


def test_a_large_layer_is_computed_no_more_often_than_an_edit_asks_for(page: Any) -> None:
    """Work is counted, not seconds: the milliseconds are only told (``-s``)."""
    layer = nn.LSTM(64, 128, num_layers=2, bidirectional=True, batch_first=True)
    shown = page(rs.trace(layer, torch.randn(1, 200, 64)))
    for section in ("cell-section", "unrolled-section", "maps-section"):
        shown.opened(section)
    script = """
      const affine = rnnscope.affine, taken = [], counts = [];
      let rows = 0;
      rnnscope.affine = (W, b, v, start, stop) => {
        rows += stop - start;
        return affine(W, b, v, start, stop);
      };
      for (let k = 0; k < arguments[1]; k++) {
        rows = 0;
        const from = performance.now();
        (new Function("k", arguments[0]))(k);
        document.body.getBoundingClientRect();
        taken.push(performance.now() - from);
        counts.push(rows);
      }
      rnnscope.affine = affine;
      return [taken.sort((a, b) => a - b), Math.max(...counts)];
    """
    taken, rows = shown.js(script, "rnnscope.page.set({ time: 20 + k })", 20)
    print(f"a step of the playhead: {taken[10]:.1f} ms")
    step = 8 * 128  # the rows of W_ih and W_hh: one step of one part
    assert rows <= 14 * step  # the equations of the step, twice explained; no part is run
    edit = (
        'rnnscope.page.edit({name: "x", layer: 0, direction: "forward", time: 0, unit: 0, to: k})'
    )
    taken, rows = shown.js(script, edit, 5)
    print(f"every step of all layers once more, after an edit: {taken[2]:.1f} ms")
    # reading backwards, the first step is the last that is read: one step of that part
    assert rows <= (3 * 200 + 1 + 14) * step


def test_in_a_notebooks_frame_it_is_the_same_page(page: Any) -> None:
    tr = notebook()
    shown = page(tr)
    frame = tr.view()._repr_html_()
    shown.path.write_text(f"<!doctype html><title>a notebook</title>{frame}", encoding="utf-8")
    shown.open()
    shown.browser.switch_to.frame(shown.one("iframe"))
    try:
        shown.slide(shown.one("#chain input[data-time='0']"), -2.5)
        edited = tr.rerun(rs.Edit("x", layer=0, batch=0, time=0, unit=0, to=-2.5))
        cells = shown.all("#chain output[data-quantity='h']")
        for cell, number in zip(cells, edited["h"].flatten().tolist(), strict=True):
            assert abs(float(cell.text) - number) < 1e-5
    finally:
        shown.browser.switch_to.default_content()


@pytest.mark.parametrize(
    "form",
    [
        *("light", "dark", "narrow", "hidden", "padded", "not finite", "text"),
        pytest.param("text dark", marks=pytest.mark.slow),
    ],
)
def test_nothing_serious_is_found_by_axe(page: Any, form: str) -> None:
    package = pytest.importorskip("importlib.util").find_spec("axe_playwright_python")
    if package is None:
        pytest.skip("axe is not installed: pip install --no-deps axe-playwright-python")
    tr = stacked().labelled(list("abcdefg"))
    if form == "padded":
        tr = packed()
    if form == "not finite":
        tr = rs.trace(nn.RNN(1, 1, batch_first=True), torch.tensor([[[1.0], [math.nan]]]))
    hash = {"hidden": "#hidden=1", "padded": "#row=1", "not finite": "#time=1"}
    if form.startswith("text"):
        shown = speaker().show(page, ["the", "cat", "sat"])
        if form == "text dark":
            shown.media(features=[{"name": "prefers-color-scheme", "value": "dark"}])
            shown.open()
        shown.type("a dog bird")
        shown.one("#tour-start").click()
        shown.js("document.querySelector('.box').focus()")
    else:
        shown = page(tr, hash.get(form, "#edit=x@0.1:1"))
    if form == "dark":
        shown.media(features=[{"name": "prefers-color-scheme", "value": "dark"}])
        shown.open("#edit=x@0.1:1")
    if form == "narrow":
        shown.size(360)
    for section in ("cell-section", "unrolled-section", "maps-section"):
        shown.opened(section)
    folder = package.submodule_search_locations[0]
    with open(f"{folder}/axe.min.js", encoding="utf-8") as file:
        shown.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": file.read()})
    found = shown.browser.execute_async_script(
        "const done = arguments[0]; axe.run().then((r) => done(r.violations));"
    )
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert not serious, json.dumps(
        [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in serious], indent=1
    )
