// Every quantity of the chosen layer and direction as a map over time and units.
rnnscope.maps = (store) => {
  const { record, state } = store, { make, number } = rnnscope;
  const $ = (id) => document.getElementById(id);
  const maps = [];
  const VIEWS = { values: "numbers", change: "change by the edits", gradients: "gradients of the loss, before any edit" };

  const planeOf = (name) => {
    const { layer, direction, row } = state, d = record.d(direction);
    const own = (run) => (name === "x" ? run.inputs[layer] : run.planes[layer][d][name]);
    if (state.view === "values") return own(store.run);
    if (state.view === "change") { const was = own(store.original); return Float64Array.from(own(store.run), (v, k) => v - was[k]); }
    const held = record.gradients;
    if (!held || record.typed(row)) return null; // of the traced loss
    if (name === "x") {
      if (layer > 0) return null;
      const size = store.steps * held.x.shape[2];
      return held.x.data.subarray(row * size, (row + 1) * size);
    }
    const value = held.values[name];
    if (!value) return null;
    const size = store.steps * value.shape[4];
    const start = ((layer * record.directions.length + d) * value.shape[2] + row) * size;
    return value.data.subarray(start, start + size);
  };

  const build = () => {
    for (const view of Object.keys(VIEWS)) {
      if (view === "gradients" && !record.gradients) continue;
      const input = make("input", { type: "radio", name: "view", value: view, onchange: () => store.set({ view }) });
      $("views").append(make("label", {}, input, ` ${VIEWS[view]}`));
    }
    for (const name of ["x", ...record.names]) {
      const info = name === "x" ? { word: "input", range: null } : record.cell.quantities.find((q) => q.name === name);
      const canvas = make("canvas", { class: "map" });
      const mark = make("span", { class: "mark" }), cursor = make("span", { class: "cursor" });
      const holder = make("div", { class: "holder", tabindex: 0, role: "group", "data-map": name, "aria-label": `${name}${info.word ? `, ${info.word}` : ""}, over time and units` }, canvas, mark, cursor);
      const key = make("div", { class: "key" });
      const map = { name, info, canvas, holder, mark, cursor, key, time: 0, unit: 0 };
      const at = (event) => {
        const box = canvas.getBoundingClientRect();
        map.time = Math.max(0, Math.min(store.steps - 1, Math.floor((event.clientX - box.left) / box.width * store.steps)));
        map.unit = Math.max(0, Math.min(map.units - 1, Math.floor((event.clientY - box.top) / box.height * map.units)));
      };
      const go = () => {
        if (!record.valid(state.row, map.time)) return;
        if (name === "x") store.set({ time: map.time, feature: map.unit });
        else store.set({ time: map.time, unit: map.unit, quantity: name });
      };
      holder.addEventListener("pointermove", (event) => { at(event); tell(map); });
      holder.addEventListener("click", (event) => { at(event); tell(map); go(); });
      holder.addEventListener("focus", () => { map.time = state.time; tell(map); });
      holder.addEventListener("blur", () => cursor.classList.remove("on"));
      holder.addEventListener("pointerleave", () => cursor.classList.remove("on"));
      holder.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (event.key === "Enter" || event.key === " ") go();
        else if (move) {
          map.time = Math.max(0, Math.min(store.steps - 1, map.time + move[0]));
          map.unit = Math.max(0, Math.min(map.units - 1, map.unit + move[1]));
          tell(map);
        } else return;
        event.preventDefault();
        event.stopPropagation();
      });
      maps.push(map);
      $("maps").append(make("figure", {}, make("figcaption", {}, make("strong", {}, name), info.word ? ` ${info.word}` : "", key), holder));
    }
  };

  const tell = (map) => {
    if (!map.plane) return;
    const { time, unit } = map, word = map.name === "x" ? "feature" : "unit";
    const valid = record.valid(state.row, time);
    const said = valid ? number(map.plane[time * map.units + unit]) : "padding";
    const what = { values: map.name, change: `change of ${map.name}`, gradients: `∂loss/∂${map.name}` }[state.view];
    $("readout").textContent = `${what}[${word} ${unit}] at time=${time}${record.label(state.row, time) ? ` (${record.label(state.row, time)})` : ""} = ${said}`;
    Object.assign($("readout").dataset, { map: map.name, time, unit, value: said });
    map.cursor.classList.add("on");
    map.cursor.style.left = `${time / store.steps * 100}%`;
    map.cursor.style.top = `${unit / map.units * 100}%`;
    map.cursor.style.width = `${100 / store.steps}%`;
    map.cursor.style.height = `${100 / map.units}%`;
  };

  const paint = (map) => {
    const plane = (map.plane = planeOf(map.name));
    map.holder.parentElement.hidden = !plane;
    if (!plane) return;
    const units = (map.units = plane.length / store.steps), T = store.steps;
    map.unit = Math.min(map.unit, units - 1);
    const [low, high, stops] = rnnscope.scale(state.view === "values" ? map.info.range : null, [plane]);
    map.key.replaceChildren(...rnnscope.key(low, high, stops).children);
    map.canvas.width = T;
    map.canvas.height = units;
    const context = map.canvas.getContext("2d"), image = context.createImageData(T, units);
    const pixels = new Uint32Array(image.data.buffer), pixel = rnnscope.painter(stops, low, high);
    const length = record.lengths[state.row];
    for (let unit = 0; unit < units; unit++) {
      for (let time = 0; time < length; time++) pixels[unit * T + time] = pixel(plane[time * units + unit]);
      for (let time = length; time < T; time++) image.data.set([128, 128, 128, (time + unit) % 2 ? 70 : 25], (unit * T + time) * 4);
    }
    context.putImageData(image, 0, 0);
    map.holder.style.height = `${Math.max(18, Math.min(420, units * Math.max(3, Math.min(18, 160 / units))))}px`;
  };
  const place = () => {
    for (const map of maps) {
      map.mark.style.left = `${state.time / store.steps * 100}%`;
      map.mark.style.width = `${100 / store.steps}%`;
    }
  };
  const refresh = (changed) => {
    for (const input of $("views").querySelectorAll("input")) input.checked = input.value === state.view;
    if (!$("maps-section").open) return;
    if (!changed || ["edits", "row", "text", "layer", "direction", "view"].some((key) => changed.has(key))) {
      maps.forEach(paint);
      $("marks").textContent = rnnscope.marks(record, state.row, maps.map((map) => map.plane), "Hatched");
    }
    place();
  };
  build();
  store.listen(refresh);
  $("maps-section").addEventListener("toggle", () => refresh());
  refresh();
};
