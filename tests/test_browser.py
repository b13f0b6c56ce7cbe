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
    return found.reshape(*found.shape[:2], shown.js("return rnnscope.page.record.time"), -1)


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


def test_numbers_in_float64_keep_their_digits(page: Any) -> None:
    torch.manual_seed(0)
    tr = rs.trace(nn.LSTM(2, 3).double(), torch.randn(5, 1, 2).double())
    shown = page(tr, "#edit=x@1.0:0.5")
    edited = tr.rerun(rs.Edit("x", layer=0, batch=0, time=1, unit=0, to=0.5))
    assert np.abs(planes(shown, "c") - edited["c"][:, :, 0].detach().numpy()).max() < 1e-10
    assert float(shown.one("#own").get_attribute("data-deviation")) < 1e-12


# --- forms ----------------------------------------------------------------------------------------


def test_nothing_is_wider_than_a_narrow_window(page: Any) -> None:
    tr = stacked()
    shown = page(tr)
    shown.size(360)
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


def test_a_large_layer_stays_fluid(page: Any) -> None:
    layer = nn.LSTM(64, 128, num_layers=2, bidirectional=True, batch_first=True)
    shown = page(rs.trace(layer, torch.randn(1, 200, 64)))
    for section in ("cell-section", "unrolled-section", "maps-section"):
        shown.opened(section)
    script = """
      const taken = [];
      for (let t = 20; t < 60; t++) {
        const from = performance.now();
        rnnscope.page.set({ time: t });
        document.body.getBoundingClientRect();
        taken.push(performance.now() - from);
      }
      return taken.sort((a, b) => a - b);
    """
    taken = shown.js(script)
    print(f"a step of the playhead: {taken[20]:.1f} ms")
    assert taken[10] < 50  # a quarter of them: machines are shared
    script = """
      const taken = [];
      for (let k = 0; k < 7; k++) {
        const from = performance.now();
        rnnscope.page.edit({name: "x", layer: 0, direction: "forward", time: 0, unit: 0, to: k});
        document.body.getBoundingClientRect();
        taken.push(performance.now() - from);
      }
      return taken.sort((a, b) => a - b);
    """
    taken = shown.js(script)
    print(f"every step of all layers once more, after an edit: {taken[3]:.1f} ms")
    assert taken[1] < 500


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


@pytest.mark.parametrize("form", ["light", "dark", "narrow", "hidden", "padded", "not finite"])
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
