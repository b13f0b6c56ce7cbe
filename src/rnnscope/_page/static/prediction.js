// What the readout makes of each step: the five most probable classes over every step, one explained.
rnnscope.prediction = (store) => {
  const { record, engine, state, model } = store, { make, number, significant } = rnnscope;
  const $ = (id) => document.getElementById(id);
  if (!record.readout) return { fill: () => {} };
  const single = record.readout.single;
  $("prediction").hidden = false;
  $("prediction-hint").hidden = false;
  $("prediction-hint").textContent = single
    ? "On top of each step stands what the readout makes of the output there."
    : `On top of each step stand the ${Math.min(5, model.size)} most probable ${model.next ? "next tokens" : "classes"}, as the readout sees them there.`;

  const percent = (value) => (Number.isNaN(value) ? "NaN" : value >= 5e-4 || value === 0 ? `${(100 * value).toFixed(1)}%` : value < 1e-6 ? "<0.0001%" : `${Number((100 * value).toPrecision(1))}%`);
  const show = (list, time) => {
    const items = model.top(store.run, state.row, time).map(({ place, value }) => {
      const item = make("li", { "data-class": place, "data-value": String(value) },
        single && !model.named ? "" : make("span", { class: "class", title: model.name(place) }, rnnscope.shown(model.name(place))),
        make("span", { class: "chance" }, single ? number(value) : percent(value)));
      if (!single) item.style.setProperty("--share", `${Number.isFinite(value) ? 100 * value : 0}%`);
      return item;
    });
    list.classList.toggle("single", single);
    list.replaceChildren(...items);
    delete list.dataset.waiting;
  };
  // All lists of the chain. Work is counted: what is too much for a moment comes one step after
  // the other, from the playhead outwards.
  let waiting = null;
  const fill = (lists) => {
    clearTimeout(waiting);
    if (engine.unknown.length && (state.edits.length || record.typed(state.row))) return;
    const computed = record.typed(state.row) || state.edits.length > 0;
    const every = [...lists].sort((a, b) => Math.abs(a.time - state.time) - Math.abs(b.time - state.time));
    const now = computed ? Math.max(1, Math.floor(2e7 / model.cost)) : every.length;
    every.slice(0, now).forEach(({ list, time }) => show(list, time));
    const rest = every.slice(now);
    for (const { list } of rest) list.dataset.waiting = "1";
    const next = () => {
      const each = rest.shift();
      if (!each) return;
      show(each.list, each.time);
      waiting = setTimeout(next, 0);
    };
    if (rest.length) waiting = setTimeout(next, 0);
  };

  // the step at the playhead --------------------------------------------------------------------

  let chosen = null; // a class, or null for the most probable
  const products = (place, time) => {
    const stage = model.stages.at(-1);
    if (model.stages.length > 1 || !stage.weight) return null;
    const { weight, bias } = stage, h = model.output(store.run, state.row, time);
    const every = Array.from(h, (factor, k) => {
      const value = weight.data[place * weight.shape[1] + k];
      const d = Math.floor(k / record.outputSize), unit = k % record.outputSize;
      return { k, value, factor, product: value * factor, direction: record.directions[d], unit };
    });
    const shown = [...every].sort((a, b) => Math.abs(b.product) - Math.abs(a.product)).slice(0, 6);
    const rest = every.length > 6 ? every.reduce((sum, p) => sum + p.product, 0) - shown.reduce((sum, p) => sum + p.product, 0) : null;
    const go = ({ direction, unit }) => () => store.set({ layer: record.layers - 1, direction, unit, time, quantity: "h" });
    const of = (direction) => (record.directions.length > 1 ? ` ${direction}` : "");
    const rows = shown.map((p) => make("tr", {}, make("td", {}, make("code", {}, `${weight.name}[${place}, ${p.k}]`)), make("td", { class: "number" }, significant(p.value)),
      make("td", {}, "× ", make("button", { type: "button", class: "term", onclick: go(p) }, `h[${p.unit}]${of(p.direction)}`)),
      make("td", { class: "number" }, number(p.factor)), make("td", { class: "number" }, `= ${number(p.product)}`)));
    if (rest !== null) rows.push(make("tr", {}, make("td", { colspan: 4 }, `${every.length - 6} others`), make("td", { class: "number" }, `= ${number(rest)}`)));
    if (bias) rows.push(make("tr", {}, make("td", {}, make("code", {}, `${bias.name}[${place}]`)), make("td", { colspan: 3 }, ""), make("td", { class: "number" }, `= ${number(bias.data[place])}`)));
    return rows;
  };
  const refresh = () => {
    const { time, row } = state, target = $("prediction");
    const step = [...document.querySelectorAll("#chain .step")].find((each) => each.dataset.time === String(time));
    const heading = make("h3", {}, `Prediction at ${rnnscope.stepName(record, row, time)}`);
    if (state.hidden && !(step && step.classList.contains("shown"))) {
      target.replaceChildren(heading, make("div", { class: "secret" }, "Work it out, then click the step."));
      return;
    }
    if (engine.unknown.length) {
      target.replaceChildren(heading, make("p", {}, `This page cannot compute ${engine.unknown.join(", ")}; on top of the steps stand PyTorch's own predictions.`));
      return;
    }
    const every = model.whole(store.run, row, time), top = model.top(store.run, row, time);
    const place = top.some((each) => each.place === chosen) ? chosen : top[0].place;
    const reverse = record.directions.length > 1 ? "both directions" : "the layer";
    const formula = single ? "weight h + bias" : "softmax(weight h + bias)";
    const bias = model.stages.some((stage) => stage.bias);
    const said = model.stages.length > 1 ? "the readout's stages, one after the other, of h" : bias ? formula : formula.replace(" + bias", "");
    const name = (k) => rnnscope.shown(model.name(k));
    const lines = top.map((each) => make("tr", { class: each.place === place ? "chosen" : "" },
      make("th", { scope: "row" }, single ? (model.named ? name(each.place) : "output") : make("button", { type: "button", class: "term class", "aria-pressed": String(each.place === place), onclick: () => { chosen = each.place; refresh(); $("prediction").querySelector("[aria-pressed=true]").focus(); } }, name(each.place))),
      make("td", { class: "number", "data-class": each.place, "data-value": String(each.value) }, number(each.value)),
      single ? null : make("td", { class: "number" }, number(every.logits[each.place]))));
    if (every.values.length > top.length) {
      const shown = new Set(top.map((each) => each.place));
      const rest = every.values.reduce((sum, value, k) => (shown.has(k) ? sum : sum + value), 0);
      lines.push(make("tr", {}, make("td", {}, `${every.values.length - top.length} others`), make("td", { class: "number" }, number(rest)), make("td", {}, "")));
    }
    const rows = products(place, time);
    target.replaceChildren(heading,
      make("div", { class: "filled" }, `${single ? "number" : "probability"} = ${said}, h the output of ${reverse} at this step`),
      make("div", { class: "predicting" },
        make("div", { class: "classes" }, make("table", {}, make("caption", { class: "away" }, "The most probable classes"),
          single ? null : make("thead", {}, make("tr", {}, make("th", { scope: "col" }, model.next ? "next token" : "class"), make("th", { scope: "col" }, "probability"), make("th", { scope: "col" }, "logit"))),
          make("tbody", {}, ...lines))),
        rows && make("div", { class: "products" }, make("p", {}, single ? "The number is" : `The logit of “${name(place)}” is`),
          make("table", {}, make("caption", { class: "away" }, "The largest products first"), make("tbody", {}, ...rows)),
          make("p", { class: "filled" }, `= ${number(every.logits[place])}`))));
    rnnscope.reachable(target);
  };
  store.listen((changed) => { if (["edits", "row", "text", "time", "hidden"].some((key) => changed.has(key))) refresh(); });
  return { fill, refresh };
};
