// The first screen: the steps side by side, the weights once beside them, the arithmetic below.
rnnscope.chain = (store, prediction) => {
  const { record, engine, state } = store, { make, number } = rnnscope;
  const $ = (id) => document.getElementById(id);
  const MOST = 240;
  let columns = [], built = "", weights = [];

  const weightCards = () => {
    const part = record.weights[state.layer][record.d(state.direction)];
    $("weights").replaceChildren();
    weights = [];
    const every = [...Object.entries(part.tensors), ...Object.entries(part.vectors)];
    for (const [field, held] of every) {
      const [rows, cols] = [held.shape[0], held.shape[1] ?? 1];
      const card = { held, field, row: Math.min(state.unit, rows - 1), column: 0 };
      if (field === "hh" && cols > 1) card.column = Math.min(state.unit, cols - 1);
      const symbol = { ih: "W_ih", hh: "W_hh", b_ih: "b_ih", b_hh: "b_hh", hr: "W_hr" }[field] ?? field;
      const place = (key, count, word) => {
        if (count === 1) return null;
        const input = make("input", { type: "number", min: 0, max: count - 1, value: card[key], "aria-label": `${word} of ${held.name}` });
        input.addEventListener("change", () => { card[key] = Math.max(0, Math.min(count - 1, Math.round(Number(input.value) || 0))); input.value = card[key]; show(card); });
        return make("label", {}, `${word} `, input);
      };
      const reach = rnnscope.reach(held.data);
      card.slider = rnnscope.slider(`${symbol}, ${held.name}`, [-reach, reach], 0, (to) => store.edit({ name: held.name, row: card.row, column: card.column, to }));
      card.slider.dataset.weight = held.name;
      card.slider.disabled = engine.unknown.length > 0;
      card.output = make("output", { "data-weight": held.name, class: "number" });
      card.ghost = make("span", { class: "ghost" });
      card.gate = make("span", { class: "gate" });
      card.element = make("div", { class: `card of-${field.replace("_", "-")}`, tabindex: -1 },
        make("div", { class: "cardhead" }, make("strong", {}, symbol), " ", make("code", {}, held.name)),
        make("div", { class: "places" }, ...[place("row", rows, "row"), place("column", cols, "column")].filter(Boolean)),
        make("div", { class: "value" }, card.output, card.ghost, card.gate), card.slider);
      const lit = field.endsWith("ih") ? "lit-x" : "lit-h";
      for (const on of ["pointerenter", "focusin"]) card.element.addEventListener(on, () => $("chain").classList.add(lit));
      for (const off of ["pointerleave", "focusout"]) card.element.addEventListener(off, () => $("chain").classList.remove(lit));
      weights.push(card);
      $("weights").append(card.element);
    }
    weights.forEach(show);
  };

  const show = (card) => {
    const own = card.held.data[card.row * (card.held.shape[1] ?? 1) + card.column];
    const edit = store.editOf({ name: card.held.name, row: card.row, column: card.column });
    const value = edit ? edit.to : own;
    card.output.textContent = rnnscope.significant(value);
    card.ghost.textContent = edit ? `was ${rnnscope.significant(own)}` : "";
    const gates = card.field.endsWith("ih") ? record.cell.gates_from_x : record.cell.gates_from_h, hidden = record.weights[state.layer][record.d(state.direction)].hidden;
    card.gate.textContent = record.cell.gates.length > 1 && card.field in { ih: 1, hh: 1, b_ih: 1, b_hh: 1 }
      ? `gate ${gates[Math.floor(card.row / hidden)]}, unit ${card.row % hidden}` : "";
    rnnscope.setSlider(card.slider, value);
  };

  const from = () => (store.steps <= MOST ? 0 : Math.max(0, Math.min(store.steps - MOST, Math.floor(state.time - MOST / 2))));
  const build = () => {
    const start = from(), count = Math.min(MOST, record.lengths[state.row] - start);
    built = [state.layer, state.direction, state.row, start].join();
    const reverse = state.direction === "reverse";
    $("chain").replaceChildren();
    $("chain").classList.toggle("reverse", reverse);
    const features = record.features(state.layer);
    const reach = rnnscope.reach(store.original.inputs[state.layer]);
    columns = [];
    for (let k = 0; k < count; k++) {
      const time = start + k, label = record.label(state.row, time);
      const column = { time };
      column.list = record.readout ? make("ol", { class: "predicted result", "data-lights": "prediction", "data-time": time, "aria-label": `Prediction at ${rnnscope.stepName(record, state.row, time)}` }) : null;
      column.bar = make("rect", { class: "bar result", x: 8, width: 14 });
      column.was = make("line", { class: "was", x1: 3, x2: 27 });
      column.dial = make("svg", { class: "dial", viewBox: "0 0 30 84", "aria-hidden": "true" },
        make("line", { class: "axis", x1: 3, x2: 27, y1: 42, y2: 42 }), column.bar, column.was);
      column.h = make("output", { class: "number result", "data-quantity": "h", "data-time": time });
      column.ghost = make("span", { class: "ghost" });
      column.wire = make("line", { x1: 0, y1: 20, x2: 34, y2: 20 });
      column.tip = make("path", {});
      column.share = make("span", { class: "share" });
      column.before = make("div", { class: "before" },
        make("svg", { class: "wire wire-h", viewBox: "0 0 40 40", preserveAspectRatio: "none", "aria-hidden": "true" }, column.wire, column.tip), column.share);
      column.box = make("button", { type: "button", class: "box", "data-time": time, "data-lights": "h", "aria-label": rnnscope.stepName(record, state.row, time), onclick: () => { column.element.classList.add("shown"); store.set({ time }); arithmetic(); } }, record.kind === "rs.Recurrent" ? record.cell.name : record.kind.replace("nn.", ""));
      column.x = make("output", { class: "number", "data-quantity": "x", "data-time": time });
      column.xghost = make("span", { class: "ghost" });
      column.slider = rnnscope.slider(`x at time=${time}`, [-reach, reach], 0, (to) => store.edit({ name: "x", layer: state.layer, direction: record.directions[0], time, unit: state.feature, to }));
      column.slider.dataset.time = time;
      column.slider.disabled = engine.unknown.length > 0;
      column.element = make("li", { class: "step", "data-time": time },
        column.list,
        make("div", { class: "out", "data-lights": "h" }, make("div", { class: "symbol" }, "h", make("sub", {}, String(time + 1)), features > 1 || record.outputSize > 1 ? make("small", { class: "unit" }) : ""), column.dial, column.h, column.ghost),
        make("div", { class: "middle" }, column.before, column.box),
        make("svg", { class: "wire wire-x", viewBox: "0 0 10 26", "aria-hidden": "true" }, make("line", { x1: 5, y1: 26, x2: 5, y2: 5 }), make("path", { d: "M1 8 L5 1 L9 8 Z" })),
        make("div", { class: "in", "data-lights": "x" }, make("div", { class: "symbol" }, "x", make("sub", {}, String(time + 1))), column.x, column.xghost, column.slider,
          make("span", { class: "label", title: label }, rnnscope.shown(label))));
      columns.push(column);
      $("chain").append(column.element);
    }
    refresh();
  };

  const refresh = () => {
    const plane = store.run.planes[state.layer][record.d(state.direction)].h, units = plane.length / store.steps;
    const unit = Math.min(state.unit, units - 1);
    const name = record.cell.equations.find((each) => each.name === "h");
    const range = record.cell.quantities.find((q) => q.name === name.name).range;
    const was = store.original.planes[state.layer][record.d(state.direction)].h;
    const most = range ? Math.max(...range.map(Math.abs)) : Math.max(rnnscope.reach(was), 1) / 2;
    const height = (v) => 42 - Math.max(-1, Math.min(1, v / most)) * 40;
    const features = record.features(state.layer);
    for (const column of columns) {
      const { time } = column;
      const value = plane[time * units + unit], own = was[time * units + unit];
      const y = Number.isFinite(value) ? height(value) : 42;
      column.bar.setAttribute("y", Math.min(42, y));
      column.bar.setAttribute("height", Math.abs(y - 42));
      column.bar.classList.toggle("below", value < 0);
      const moved = state.edits.length > 0 && Math.abs(value - own) > 5e-7;
      const gy = Number.isFinite(own) ? height(own) : 42;
      column.was.setAttribute("y1", gy); column.was.setAttribute("y2", gy);
      column.was.classList.toggle("on", moved);
      column.h.textContent = number(value);
      column.h.dataset.unit = unit;
      column.ghost.textContent = moved ? `was ${number(own)}` : "";
      const small = column.element.querySelector(".unit");
      if (small) small.textContent = ` unit ${unit}`;
      const share = engine.share(store.run, state.layer, state.direction, time, unit, state.row);
      const wide = 1 + 15 * (share ?? 0);
      column.wire.setAttribute("stroke-width", wide.toFixed(2));
      column.tip.setAttribute("d", `M31 ${(16 - wide / 2).toFixed(2)} L40 20 L31 ${(24 + wide / 2).toFixed(2)} Z`);
      column.share.textContent = share === null ? "" : `${Math.round(100 * share)}%`;
      column.before.title = share === null
        ? engine.carries ? "the share of the state before is no number here" : "no product with the state before enters the arguments: it is carried unit by unit"
        : `${Math.round(100 * share)}% of the argument comes from the state before`;
      const x = store.run.inputs[state.layer][time * features + state.feature];
      const xo = store.original.inputs[state.layer][time * features + state.feature];
      column.x.textContent = number(x);
      column.x.dataset.unit = state.feature;
      column.xghost.textContent = x !== xo && !(Number.isNaN(x) && Number.isNaN(xo)) && Math.abs(x - xo) > 5e-7 ? `was ${number(xo)}` : "";
      rnnscope.setSlider(column.slider, x);
    }
    prediction.fill(columns);
    playhead();
  };

  const playhead = () => {
    for (const column of columns) {
      const here = column.time === state.time;
      column.element.classList.toggle("now", here);
      if (here) column.box.setAttribute("aria-current", "step"); else column.box.removeAttribute("aria-current");
    }
    const now = columns.find((column) => column.time === state.time);
    const scroller = $("scroller");
    if (now) {
      const left = now.element.offsetLeft - scroller.offsetLeft, width = now.element.offsetWidth;
      if (left < scroller.scrollLeft || left + width > scroller.scrollLeft + scroller.clientWidth) scroller.scrollLeft = left - scroller.clientWidth / 2 + width / 2;
    }
    arithmetic();
  };

  const arithmetic = () => {
    const target = $("arithmetic");
    const now = columns.find((column) => column.time === state.time);
    const secret = state.hidden && !(now && now.element.classList.contains("shown"));
    if (engine.unknown.length) { target.replaceChildren(make("p", {}, `This page cannot compute ${engine.unknown.join(", ")}: the function has no JavaScript.`)); return; }
    const rows = record.cell.equations.map(({ name, ...equation }) => {
      const unit = Math.min(state.unit, record.units(name in record.values ? name : "h", state.layer) - 1);
      const found = engine.explain(store.run, name, { layer: state.layer, direction: state.direction, time: state.time, unit }, state.row);
      const steps = found.lines.map((line) => make("div", { class: "filled" }, `= ${line}`));
      if (found.set) steps.push(make("div", { class: "filled set" }, "set by your edit"));
      const result = make("output", { class: "number", "data-quantity": name, "data-time": state.time, "data-unit": unit, "data-of": "arithmetic" }, number(found.value));
      return make("div", { class: "equation", "data-equation": name, "data-lights": name },
        make("div", { class: "symbolic" }, rnnscope.math(equation[state.direction].mathml)),
        secret ? make("div", { class: "secret" }, "Work it out, then click the step.") : make("div", { class: "numbers" }, ...steps, make("div", { class: "filled total" }, "= ", result)));
    });
    const unit = record.outputSize > 1 || record.units(record.names[0], 0) > 1 ? `, unit ${state.unit}` : "";
    const where = `${record.layers > 1 ? `layer ${state.layer}, ` : ""}${record.directions.length > 1 ? `${state.direction}, ` : ""}`;
    target.replaceChildren(make("h3", {}, `${where}${rnnscope.stepName(record, state.row, state.time)}${unit}`), ...rows);
    rnnscope.reachable(target);
  };

  const edits = () => {
    const list = state.edits.map((edit) => {
      const input = make("input", { type: "number", step: "any", value: Number(edit.to.toPrecision(7)), "aria-label": rnnscope.editName(edit) });
      input.addEventListener("change", () => { if (input.value !== "" && Number.isFinite(Number(input.value))) store.edit({ ...edit, to: Number(input.value) }); });
      return make("li", {}, make("code", {}, rnnscope.editName(edit)), " = ", input,
        make("button", { type: "button", "aria-label": `Remove the edit of ${rnnscope.editName(edit)}`, onclick: () => store.unedit(edit) }, "×"));
    });
    $("edits").replaceChildren(...(list.length ? [make("h3", {}, record.rows.length > 1 ? "Edits, of whichever sequence is shown" : "Edits"), make("ul", {}, ...list)] : []));
    $("reset").disabled = !list.length;
    const typed = record.typed(state.row);
    $("proof").classList.toggle("unsure", !record.proven || typed);
    $("proof").textContent = typed ? `Your text, read by the page's own arithmetic from zero states. Of the traced sequence: ${record.proof}`
      : list.length ? `Before your edits: ${record.proof}` : record.proof;
  };

  store.listen((changed) => {
    const has = (...keys) => keys.some((key) => changed.has(key));
    if (has("layer", "direction", "row", "text") || [state.layer, state.direction, state.row, from()].join() !== built) build();
    else if (has("edits", "unit", "feature")) refresh();
    else if (has("time", "hidden")) playhead();
    if (has("layer", "direction", "unit")) weightCards();
    else if (has("edits")) weights.forEach(show);
    if (has("edits", "row", "text")) edits();
  });
  $("share-hint").hidden = !engine.carries || engine.unknown.length > 0;
  weightCards();
  build();
  edits();
};
