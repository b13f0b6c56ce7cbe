// What is under the pointer, or focused, lights all that it depends on, to the first input.
rnnscope.lights = (store) => {
  const { record, state } = store, reach = rnnscope.depends(record);
  const $ = (id) => document.getElementById(id);
  let lit = "";

  const clear = () => {
    lit = "";
    for (const each of document.querySelectorAll(".reached")) each.classList.remove("reached");
    for (const each of document.querySelectorAll(".strip .reach")) each.remove();
    $("depends").textContent = "";
  };
  const range = (steps) => {
    const first = steps.indexOf(true), last = steps.lastIndexOf(true);
    return first < 0 ? null : [first, last];
  };
  const spoken = ([first, last]) => (first === last ? `x at time=${first}` : `x at time=${first} to time=${last}`);

  const light = (name, time) => {
    const said = [name, state.layer, state.direction, time, state.row].join();
    if (said === lit) return;
    clear();
    if (!record.valid(state.row, time)) return;
    lit = said;
    const d = record.d(state.direction), { layer } = state;
    const found = reach(name, layer, d, time, state.row);
    for (const step of document.querySelectorAll("#chain .step")) {
      const at = Number(step.dataset.time), h = found.has("h", layer, d, at);
      step.querySelector(".out").classList.toggle("reached", h);
      step.querySelector(".before").classList.toggle("reached", h && [...rnnscope.carried(record)].some((q) => found.has(q, layer, d, at)));
      step.querySelector(".in").classList.toggle("reached", found.has("x", layer, d, at));
      step.querySelector(".box").classList.toggle("reached", record.cell.equations.some((each) => found.has(each.name, layer, d, at)));
      step.querySelector(".predicted")?.classList.toggle("reached", name === "prediction" && at === time);
    }
    const earlier = state.direction === "reverse" ? state.time + 1 : state.time - 1;
    const nodes = new Set();
    for (const node of document.querySelectorAll("#graph .node")) {
      const source = node.dataset.origin ?? "";
      const on = node.dataset.node ? found.has(node.dataset.node, layer, d, state.time)
        : source === "x" ? found.has("x", layer, d, state.time)
          : found.has(source.slice(7), layer, d, earlier) || (found.initial.has(source.slice(7)) && !record.valid(state.row, earlier));
      node.classList.toggle("reached", on);
      if (on) nodes.add(node.dataset.node ?? source);
    }
    for (const path of document.querySelectorAll("#graph path")) path.classList.toggle("reached", nodes.has(path.dataset.from) && nodes.has(path.dataset.to));
    for (const strip of document.querySelectorAll(".strip")) {
      const ends = range(found.steps(Number(strip.dataset.layer), record.d(strip.dataset.direction)));
      if (!ends) continue;
      const cover = rnnscope.make("span", { class: "reach" });
      cover.style.left = `${100 * ends[0] / store.steps}%`;
      cover.style.width = `${100 * (ends[1] - ends[0] + 1) / store.steps}%`;
      strip.append(cover);
    }
    const inputs = Array.from({ length: record.lengths[state.row] }, (_, at) => found.has("x", 0, 0, at));
    for (const token of document.querySelectorAll("#tokens .token")) token.classList.toggle("reached", inputs[Number(token.dataset.time)]);
    const ends = range(inputs);
    const begins = [...found.initial].map((each) => `${each}₀`);
    $("depends").textContent = `${name === "prediction" ? "The prediction" : name} at time=${time} depends on ${[...(ends ? [spoken(ends)] : []), ...begins].join(", ") || "no input"}.`;
  };
  const over = (event) => {
    const from = event.target instanceof Element ? event.target.closest("[data-lights]") : null;
    if (!from) { if (lit) clear(); return; }
    const name = from.dataset.lights === "chosen" ? state.quantity : from.dataset.lights;
    light(name, Number(from.closest("[data-time]")?.dataset.time ?? state.time));
  };
  document.addEventListener("pointerover", over);
  document.addEventListener("focusin", over);
  document.addEventListener("focusout", clear);
  document.documentElement.addEventListener("pointerleave", clear);
  store.listen(clear);
};

// the quantities whose equations use a state of the step before
rnnscope.carried = (record) => record.cell.equations.filter(({ tree }) => rnnscope.uses(tree).previous.size).map(({ name }) => name);
