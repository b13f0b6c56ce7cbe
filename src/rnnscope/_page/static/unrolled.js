// All layers and directions over time, one number each: the chosen quantity of the chosen unit.
rnnscope.unrolled = (store) => {
  const { record, state } = store, { make } = rnnscope;
  const $ = (id) => document.getElementById(id);
  const rows = [];

  const build = () => {
    $("unrolled").replaceChildren();
    for (let layer = record.layers - 1; layer >= 0; layer--) {
      for (const direction of record.directions) {
        const canvas = make("canvas", { height: 1 });
        const mark = make("span", { class: "mark" });
        const name = `layer ${layer}, ${direction}`;
        const strip = make("div", { class: "strip", "data-layer": layer, "data-direction": direction }, canvas, mark);
        strip.addEventListener("click", (event) => {
          const box = canvas.getBoundingClientRect();
          const time = Math.min(store.steps - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * store.steps)));
          if (record.valid(state.row, time)) store.set({ layer, direction, time });
        });
        const button = make("button", { type: "button", onclick: () => store.set({ layer, direction }) }, `${name} ${direction === "reverse" ? "←" : "→"}`);
        rows.push({ layer, direction, canvas, mark, button, strip });
        $("unrolled").append(make("div", { class: "lane" }, button, strip));
      }
    }
    $("unrolled").append(make("div", { class: "lane" }, make("span", { id: "unrolled-axis" }), make("div", { class: "labels", id: "labels" })));
  };

  const labels = () => {
    const most = Math.max(1, Math.floor(store.steps / 12));
    const labelled = record.labelled(state.row);
    $("unrolled-axis").textContent = labelled ? "step" : "time";
    const every = labelled ? Math.max(1, Math.floor(store.steps / 40)) : most;
    $("labels").replaceChildren(...Array.from({ length: store.steps }, (_, time) => time).filter((time) => time % every === 0).map((time) => {
      const text = make("span", {}, labelled ? rnnscope.shown(record.label(state.row, time)) : String(time));
      text.style.maxWidth = `${every / store.steps * 100}%`;
      text.style.left = `${(time + 0.5) / store.steps * 100}%`;
      return text;
    }));
  };

  const paint = () => {
    const name = state.quantity, info = record.cell.quantities.find((q) => q.name === name);
    const planes = rows.map((row) => store.run.planes[row.layer][record.d(row.direction)][name]);
    const [low, high, stops] = rnnscope.scale(info.range, planes);
    $("unrolled-hint").textContent = `Colour: ${name}${info.word ? ` (${info.word})` : ""} of unit ${state.unit}, from ${Number(low.toPrecision(3))} to ${Number(high.toPrecision(3))}.${rnnscope.marks(record, state.row, planes, "Grey")} Click a step.`;
    rows.forEach((row, k) => {
      const units = planes[k].length / store.steps, unit = Math.min(state.unit, units - 1);
      row.canvas.width = store.steps;
      const context = row.canvas.getContext("2d"), image = context.createImageData(store.steps, 1);
      for (let time = 0; time < store.steps; time++) {
        const valid = record.valid(state.row, time);
        const [r, g, b] = rnnscope.colour(stops, (planes[k][time * units + unit] - low) / (high - low));
        image.data.set(valid ? [r, g, b, 255] : [128, 128, 128, 40], time * 4);
      }
      context.putImageData(image, 0, 0);
    });
    place();
  };
  const place = () => {
    for (const row of rows) {
      row.mark.style.left = `${state.time / store.steps * 100}%`;
      row.mark.style.width = `${100 / store.steps}%`;
      const here = row.layer === state.layer && row.direction === state.direction;
      row.strip.classList.toggle("here", here);
      row.button.setAttribute("aria-pressed", here);
    }
  };

  const refresh = (changed) => {
    if (!$("unrolled-section").open) return;
    if (!changed || ["edits", "row", "text", "quantity", "unit"].some((key) => changed.has(key))) { labels(); paint(); } else place();
  };
  build();
  store.listen(refresh);
  $("unrolled-section").addEventListener("toggle", () => refresh());
  refresh();
};
