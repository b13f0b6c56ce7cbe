// The cell at the chosen step: its quantities as a diagram, and one of them explained.
rnnscope.cellView = (store) => {
  const { record, engine, state } = store, { make, number } = rnnscope;
  const $ = (id) => document.getElementById(id);
  const trees = Object.fromEntries(record.cell.equations.map(({ name, tree }) => [name, tree]));

  const used = Object.fromEntries(Object.entries(trees).map(([name, tree]) => [name, rnnscope.uses(tree)]));
  const level = {};
  for (const { name } of record.cell.equations) level[name] = 1 + Math.max(0, ...[...used[name].quantities].map((q) => level[q]));
  const sources = [
    { id: "x", name: "x", word: "input" },
    ...record.cell.states.map((name) => ({ id: `before-${name}`, name, word: "before", before: true })),
  ];
  const nodes = {};
  let svg = null, columns = [];

  const earlier = () => (state.direction === "reverse" ? state.time + 1 : state.time - 1);
  const first = () => (state.direction === "reverse" ? state.time === record.lengths[state.row] - 1 : state.time === 0);

  const build = () => {
    columns = [];
    const depth = Math.max(...Object.values(level));
    for (let k = 0; k <= depth; k++) columns.push(make("div", { class: "level" }));
    for (const source of sources) {
      const value = make("output", { class: "number", "data-source": source.id });
      const go = () => {
        if (source.name === "x") document.querySelector(`#chain input[data-time="${state.time}"]`)?.focus();
        else if (!first()) store.set({ time: earlier(), quantity: source.name });
      };
      nodes[source.id] = { value, level: 0, element: make("button", { type: "button", class: "node source", "data-origin": source.id, "data-lights": source.name === "x" ? "x" : null, onclick: go }, make("span", { class: "symbol" }), make("small", {}, source.word), value) };
      columns[0].append(nodes[source.id].element);
    }
    for (const { name, word } of record.cell.quantities) {
      const value = make("output", { class: "number" }), ghost = make("span", { class: "ghost" });
      const element = make("button", { type: "button", class: "node", "data-node": name, "data-lights": name, onclick: () => store.set({ quantity: name }) },
        make("span", { class: "symbol" }, name), word ? make("small", {}, word) : "", value, ghost);
      nodes[name] = { value, ghost, element, level: level[name] };
      columns[level[name]].append(element);
    }
    svg = make("svg", { class: "wires", "aria-hidden": "true" });
    $("graph").replaceChildren(svg, ...columns);
  };

  // from box to box; one that passes a column goes between its boxes, never behind them
  const wires = () => {
    const graph = $("graph"), box = graph.getBoundingClientRect();
    if (!box.width) return;
    svg.replaceChildren();
    svg.setAttribute("width", 0);
    const rect = (element) => {
      const found = element.getBoundingClientRect(), left = found.left - box.left + graph.scrollLeft, top = found.top - box.top;
      return { left, top, right: left + found.width, bottom: top + found.height, middle: top + found.height / 2 };
    };
    const placed = columns.map((column) => [...column.children].map(rect));
    const gaps = placed.map((boxes) => [boxes[0].top - 9, ...boxes.slice(1).map((each, k) => (boxes[k].bottom + each.top) / 2), boxes.at(-1).bottom + 9]);
    const passing = {};
    const join = (from, to) => {
      const a = rect(nodes[from].element), b = rect(nodes[to].element), start = nodes[from].level, end = nodes[to].level;
      const points = [[a.right, a.middle]];
      for (let k = start + 1; k < end; k++) {
        const direct = a.middle + (b.middle - a.middle) * (k - start) / (end - start);
        const gap = gaps[k].reduce((best, y) => (Math.abs(y - direct) < Math.abs(best - direct) ? y : best));
        const there = (passing[`${k} ${gap}`] ??= []);
        if (!there.includes(from)) there.push(from);
        const lane = gap + [0, 4, -4][there.indexOf(from) % 3];
        points.push([placed[k][0].left - 4, lane], [placed[k][0].right + 4, lane]);
      }
      points.push([b.left, b.middle]);
      const d = points.slice(1).map(([x, y], k) => {
        const [from, high] = points[k], m = (from + x) / 2;
        return y === high ? `L${x} ${y}` : `C${m} ${high} ${m} ${y} ${x} ${y}`;
      });
      const lit = from === state.quantity || to === state.quantity;
      const path = make("path", { d: `M${points[0].join(" ")} ${d.join(" ")}`, class: lit ? "lit" : "", "data-from": from, "data-to": to });
      if (lit) svg.append(path); else svg.prepend(path);
    };
    for (const name of Object.keys(trees)) {
      if (used[name].x) join("x", name);
      for (const each of used[name].previous) join(`before-${each}`, name);
      for (const each of used[name].quantities) join(each, name);
    }
    svg.setAttribute("width", graph.scrollWidth);
    svg.setAttribute("height", graph.scrollHeight);
  };

  const refresh = () => {
    if (!$("cell-section").open) return;
    const { layer, direction, time, row } = state;
    const at = (name) => Math.min(state.unit, record.units(name in record.values ? name : "h", layer) - 1);
    for (const source of sources) {
      const node = nodes[source.id], symbol = node.element.querySelector(".symbol");
      let value, said;
      if (source.name === "x") {
        symbol.replaceChildren("x", make("sub", {}, String(time + 1)));
        value = store.value(store.run, "x", layer, direction, time, state.feature);
        said = record.features(layer) > 1 ? `${number(value)} …` : number(value);
      } else {
        const which = direction === "reverse" ? time + 2 : time;
        symbol.replaceChildren(source.name, make("sub", {}, first() ? "0" : String(which)));
        if (first()) {
          const before = record.before(source.name, layer, record.d(direction), row);
          value = before[Math.min(state.unit, before.length - 1)];
        } else value = store.value(store.run, source.name, layer, direction, earlier(), at(source.name));
        said = number(value);
        node.element.disabled = first();
      }
      node.value.textContent = said;
    }
    for (const name of Object.keys(trees)) {
      const value = store.value(store.run, name, layer, direction, time, at(name));
      const own = name in record.values ? store.value(store.original, name, layer, direction, time, at(name)) : value;
      nodes[name].value.textContent = number(value);
      nodes[name].ghost.textContent = Math.abs(value - own) > 5e-7 ? `was ${number(own)}` : "";
      const here = name === state.quantity;
      nodes[name].element.setAttribute("aria-pressed", here);
      nodes[name].element.classList.toggle("chosen", here);
    }
    explanation();
    rnnscope.reachable($("cell-section"));
    wires();
  };

  const goTo = (target) => () => {
    const { name, unit, ...place } = target;
    if (name !== "x") { store.set({ ...place, unit, quantity: name }); return; }
    store.set({ layer: target.layer, time: target.time, feature: unit });
    document.querySelector(`#chain input[data-time="${target.time}"]`)?.focus();
  };
  const link = (text, target) => (target ? make("button", { type: "button", class: "term", "data-target": `${target.name} ${target.layer} ${target.direction} ${target.time} ${target.unit}`, onclick: goTo(target) }, text) : make("span", {}, text));

  // what a sum of products is called: as in the equation above it
  const named = (leaf, layer, time) => {
    const written = (letter, below) => make("span", { class: "symbol" }, letter, make("sub", {}, below));
    const kind = leaf.op === "from_x" ? `i${leaf.gate}` : leaf.op === "from_h" ? `h${leaf.gate}` : "hr";
    const which = time + (leaf.op === "from_x" || leaf.of ? 1 : state.direction === "reverse" ? 2 : 0);
    const found = [written("W", kind), " ", leaf.of && leaf.of !== "…" ? written(leaf.of, String(time + 1)) : leaf.of ? "(…)" : written(leaf.op === "from_x" ? "x" : "h", first() && leaf.op === "from_h" ? "0" : String(which))];
    if (leaf.bias) found.push(" + ", written("b", kind));
    const from = leaf.op === "from_h" && !leaf.of ? (first() ? "the initial state" : `h at time=${earlier()}`) : leaf.op === "from_x" && layer > 0 ? `x of layer ${layer} is h of layer ${layer - 1}` : "";
    return [...found, from ? make("small", { class: "from" }, ` (${from})`) : ""];
  };
  const term = (target) => {
    const of = target.layer !== state.layer && record.directions.length > 1 ? ` ${target.direction}` : "";
    return `${target.name}[${target.unit}]${of}`;
  };

  const explanation = () => {
    if (engine.unknown.length) { $("explanation").replaceChildren(); return; }
    const { quantity: name, layer, direction, time } = state;
    const unit = Math.min(state.unit, record.units(name, layer) - 1);
    const place = { layer, direction, time, unit };
    const found = engine.explain(store.run, name, place, state.row);
    const items = [];
    for (const leaf of found.leaves) {
      if (!leaf.every) {
        const said = leaf.first ? `${leaf.symbol} (initial state)` : leaf.symbol;
        items.push(make("li", {}, link(said, leaf.target), " = ", make("span", { class: "number" }, number(leaf.value))));
        continue;
      }
      const shown = [...leaf.every].sort((a, b) => Math.abs(b.product) - Math.abs(a.product)).slice(0, 6);
      const rest = leaf.every.length > 6 ? leaf.every.reduce((sum, p) => sum + p.product, 0) - shown.reduce((sum, p) => sum + p.product, 0) : null;
      const rows = shown.map((p) => make("tr", {}, make("td", {}, make("code", {}, p.weight)), make("td", { class: "number" }, rnnscope.significant(p.value)),
        make("td", {}, "× ", link(p.target ? term(p.target) : `h[${p.column}]`, p.target)),
        make("td", { class: "number" }, number(p.factor)), make("td", { class: "number" }, `= ${number(p.product)}`)));
      if (rest !== null) rows.push(make("tr", {}, make("td", { colspan: 4 }, `${leaf.every.length - 6} others`), make("td", { class: "number" }, `= ${number(rest)}`)));
      if (leaf.bias) rows.push(make("tr", {}, make("td", {}, make("code", {}, leaf.bias.name)), make("td", { colspan: 3 }, ""), make("td", { class: "number" }, `= ${number(leaf.bias.value)}`)));
      items.push(make("li", {}, ...named(leaf, layer, time), " = ", make("span", { class: "number" }, number(leaf.value)), make("div", { class: "products" }, make("table", {}, make("caption", { class: "away" }, "The largest products first"), make("tbody", {}, ...rows)))));
    }
    const info = record.cell.quantities.find((q) => q.name === name);
    const own = name in record.values ? record.plane(name, layer, record.d(direction), state.row) : [found.value];
    const reach = rnnscope.reach(own), range = info.range ?? [-reach, reach];
    const edit = { name, layer, direction, time, unit };
    const slider = rnnscope.slider(`Set ${name} at time=${time}, unit ${unit}`, range, found.value, (to) => store.edit({ ...edit, to }));
    slider.dataset.edit = name;
    const output = make("output", { class: "number", "data-of": "explanation", "data-quantity": name, "data-time": time, "data-unit": unit }, number(found.value));
    const old = $("explanation").querySelector("input[data-edit]");
    if (old && document.activeElement === old && old.dataset.at === JSON.stringify(edit)) {
      // being dragged: the slider stays in its place
      $("explanation").querySelector("[data-of=explanation]").textContent = number(found.value);
      return;
    }
    slider.dataset.at = JSON.stringify(edit);
    const equation = found.equation[direction];
    $("explanation").replaceChildren(
      make("h3", {}, `${name}${info.word ? `, ${info.word}` : ""}: ${rnnscope.stepName(record, state.row, time)}, unit ${unit}`),
      make("div", { class: "symbolic" }, rnnscope.math(equation.mathml)),
      make("div", { class: "numbers" }, ...found.lines.map((line) => make("div", { class: "filled" }, `= ${line}`)), make("div", { class: "filled total" }, "= ", output, found.set ? " set by your edit" : "")),
      make("ul", { class: "leaves" }, ...items),
      make("label", { class: "setter" }, `Set ${name} here `, slider));
  };

  build();
  store.listen(refresh);
  $("cell-section").addEventListener("toggle", refresh);
  window.addEventListener("resize", () => { if ($("cell-section").open) wires(); });
  refresh();
};
