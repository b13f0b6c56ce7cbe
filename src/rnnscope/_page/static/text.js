// The sequence as a text, coloured by the chosen quantity of the chosen unit; a text of the reader's.
rnnscope.text = (store) => {
  const { record, engine, state, model } = store, { make, number } = rnnscope;
  const $ = (id) => document.getElementById(id);
  const MOST = 600;
  if (!record.labels && !record.vocabulary) return;
  $("text-section").hidden = false;

  // typing --------------------------------------------------------------------------------------

  let late = null;
  const said = (problem) => {
    $("typed").setAttribute("aria-invalid", problem !== "");
    $("said").classList.toggle("wrong", problem !== "");
    if (problem) { $("said").textContent = problem; return; }
    const unknown = record.typed(state.row) ? model.tokens(state.text).unknown : [];
    $("said").textContent = unknown.length
      ? `Read as ${record.vocabulary.tokens[record.vocabulary.unknown]}, as they are not in the vocabulary: ${unknown.slice(0, 8).map((each) => `“${each}”`).join(", ")}${unknown.length > 8 ? ` and ${unknown.length - 8} more` : ""}.` : "";
  };
  const read = () => {
    clearTimeout(late);
    const from = performance.now();
    said(store.type($("typed").value));
    read.took = performance.now() - from;
  };
  read.took = 0;
  if (model.typeable) {
    $("typing").hidden = false;
    $("typed").placeholder = `Type: ${record.vocabulary.split === "characters" ? "each character is a token" : "tokens are split at spaces"}`;
    // a large model is read once the typing stops for a moment
    $("typed").addEventListener("input", () => { clearTimeout(late); if (read.took < 80) read(); else late = setTimeout(read, 350); });
    $("typed").addEventListener("change", read);
    $("back").addEventListener("click", () => { store.set({ row: 0 }); $("typed").focus(); });
  } else if (record.vocabulary) {
    const why = record.vocabulary.untyped || `this page cannot compute ${engine.unknown.join(", ")}`;
    $("untyped").textContent = `No text can be typed here: ${why}.`;
  }

  // the coloured text ---------------------------------------------------------------------------

  const short = (label) => (label.length > 80 ? `${label.slice(0, 80)}…` : label);
  let shown = [], built = "";
  const from = () => { const n = record.lengths[state.row]; return n <= MOST ? 0 : Math.max(0, Math.min(n - MOST, state.time - MOST / 2)); };
  const build = () => {
    const start = from(), count = Math.min(MOST, record.lengths[state.row] - start);
    built = `${state.row} ${state.text} ${start}`;
    shown = Array.from({ length: count }, (_, k) => {
      const time = start + k, label = record.label(state.row, time);
      const token = make("span", { class: "token", "data-time": time, "data-lights": "chosen", onclick: () => store.set({ time }) }, short(rnnscope.shown(label)) || " ");
      return { time, token };
    });
    const spaced = !record.vocabulary || record.vocabulary.split === "spaces";
    $("tokens").classList.toggle("spaced", spaced);
    const parts = shown.flatMap(({ token, time }) => (/\n/.test(record.label(state.row, time)) ? [token, make("br")] : spaced ? [token, " "] : [token]));
    $("tokens").replaceChildren(start > 0 ? "… " : "", ...parts, start + count < record.lengths[state.row] ? " …" : "");
  };
  const paint = () => {
    if (!record.labelled(state.row)) { $("tokens").replaceChildren(); $("tokens-hint").textContent = ""; return; }
    if (built !== `${state.row} ${state.text} ${from()}`) build();
    const { quantity: name, layer, direction } = state;
    const info = record.cell.quantities.find((q) => q.name === name);
    const plane = store.run.planes[layer][record.d(direction)][name], units = plane.length / store.steps;
    const unit = Math.min(state.unit, units - 1);
    const [low, high, stops] = rnnscope.scale(info.range, [plane]);
    for (const { time, token } of shown) {
      const value = plane[time * units + unit], colour = rnnscope.colour(stops, (value - low) / (high - low));
      token.style.background = `rgb(${colour.join(" ")})`;
      token.style.color = rnnscope.ink(colour);
      token.title = state.hidden ? "" : `${name} = ${number(value)} at time=${time}`;
      token.classList.toggle("now", time === state.time);
    }
    const box = $("tokens"), now = shown.find(({ time }) => time === state.time)?.token;
    if (now) {
      const top = now.offsetTop - box.offsetTop, room = box.clientHeight - now.offsetHeight;
      if (top < box.scrollTop || top > box.scrollTop + room) box.scrollTop = top - room / 2;
    }
    rnnscope.reachable($("text-section"));
    const where = `${record.layers > 1 ? `, layer ${layer}` : ""}${record.directions.length > 1 ? `, ${direction}` : ""}`;
    $("tokens-hint").replaceChildren(`Colour: ${name}${info.word ? ` (${info.word})` : ""} of unit ${unit}${where} `, rnnscope.key(low, high, stops),
      ` Choose another above; click a token to go there.${plane.some((v) => !Number.isFinite(v)) ? " Magenta: NaN or infinite." : ""}`);
  };

  const refresh = () => {
    $("back").hidden = !record.typed(state.row);
    if (document.activeElement !== $("typed") && $("typed").value !== state.text) { $("typed").value = state.text; said(""); }
    paint();
  };
  store.listen(refresh);
  refresh();
};
