// The page put together: the bar, the keys, the address.
(() => {
  const $ = (id) => document.getElementById(id), { make } = rnnscope;
  const record = rnnscope.decode(JSON.parse($("record").textContent));
  const engine = rnnscope.engine(record);
  const model = rnnscope.model(record, engine);
  const store = rnnscope.store(record, engine, model), { state } = store;
  rnnscope.page = store;

  for (const part of record.hide) document.body.classList.add(`without-${part}`);
  $("title").textContent = record.title;
  $("construction").textContent = record.construction;
  $("left-out").textContent = record.left_out.join(" ");

  // choosers, where there is a choice
  const choosers = {};
  const chooser = (key, word, options) => {
    const select = make("select", { id: `choose-${key}` }, ...options.map(([value, text]) => make("option", { value }, text)));
    select.addEventListener("change", () => store.set({ [key]: typeof options[0][0] === "number" ? Number(select.value) : select.value }));
    choosers[key] = select;
    $("choosers").append(make("label", { hidden: options.length < 2 }, `${word} `, select));
  };
  const range = (count) => Array.from({ length: count }, (_, k) => [k, String(k)]);
  const size = Math.max(...record.names.map((name) => record.units(name, 0)));
  const sequences = () => record.rows.map((row, k) => [k, String(row)]);
  chooser("row", "sequence", sequences());
  chooser("layer", "layer", range(record.layers));
  chooser("direction", "direction", record.directions.map((d) => [d, d]));
  chooser("unit", "unit", range(size));
  chooser("feature", "feature of x", range(Math.max(record.features(0), record.layers > 1 ? record.features(1) : 0)));
  // only what the layer and the quantity have can be chosen
  const offer = (key, count) => {
    const select = choosers[key];
    if (select.options.length === count) return;
    select.replaceChildren(...range(count).map(([value, text]) => make("option", { value }, text)));
    select.parentElement.hidden = count < 2;
  };
  chooser("quantity", "quantity", record.names.map((name) => [name, name]));

  const bar = () => {
    $("playhead").max = record.lengths[state.row] - 1;
    $("playhead").value = state.time;
    const said = rnnscope.stepName(record, state.row, state.time);
    $("playhead").setAttribute("aria-valuetext", said);
    $("where").textContent = said;
    $("previous").disabled = state.time === 0;
    $("next").disabled = state.time === record.lengths[state.row] - 1;
    if (choosers.row.options.length !== record.rows.length) {
      choosers.row.replaceChildren(...sequences().map(([value, text]) => make("option", { value }, text)));
      choosers.row.parentElement.hidden = record.rows.length < 2;
    }
    offer("unit", record.units(state.quantity, state.layer));
    offer("feature", record.features(state.layer));
    // the first screen shows every quantity: what is chosen shows in the sections below
    choosers.quantity.parentElement.hidden = record.names.length < 2 || !($("cell-section").open || $("unrolled-section").open || !$("text-section").hidden);
    for (const [key, select] of Object.entries(choosers)) select.value = state[key];
    document.body.classList.toggle("hiding", state.hidden);
    $("hide").setAttribute("aria-pressed", state.hidden);
    $("hide").textContent = state.hidden ? "Show results" : "Hide results";
  };
  const own = () => {
    // a typed text has no numbers of PyTorch beside it: then of the first traced sequence
    const row = record.typed(state.row) ? 0 : state.row;
    const most = engine.deviation(row), of = row === state.row ? "this sequence" : "the traced sequence";
    const short = (value) => (value === 0 ? "0" : value.toExponential(0).replace(/e([+-])(\d)$/, "e$10$2"));
    const predicted = model.deviation(engine.original(row), row);
    const steps = predicted && predicted.count < record.lengths[row] ? ` of its first ${predicted.count} steps` : "";
    const also = predicted ? `, predictions${steps} by at most ${short(predicted.worst)}` : "";
    $("own").textContent = most === null ? "" : `The page's own arithmetic, in float64, differs from PyTorch's numbers by at most ${short(most)} (every quantity of ${of}, in ${record.dtype})${also}.`;
    $("own").dataset.deviation = String(most);
    $("own").dataset.predictions = predicted ? String(predicted.worst) : "";
  };

  const hide = () => {
    for (const step of document.querySelectorAll(".step.shown")) step.classList.remove("shown");
    store.set({ hidden: !state.hidden });
  };
  $("playhead").addEventListener("input", () => store.set({ time: Number($("playhead").value) }));
  $("previous").addEventListener("click", () => store.set({ time: state.time - 1 }));
  $("next").addEventListener("click", () => store.set({ time: state.time + 1 }));
  $("reset").addEventListener("click", () => store.set({ edits: [] }));
  $("hide").addEventListener("click", hide);
  const dark = (on) => { document.documentElement.dataset.theme = on ? "dark" : "light"; $("theme").setAttribute("aria-pressed", on); $("theme").textContent = on ? "Light" : "Dark"; };
  dark(window.matchMedia("(prefers-color-scheme: dark)").matches);
  $("theme").addEventListener("click", () => dark(document.documentElement.dataset.theme !== "dark"));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const into = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
    if (event.key === "?" && !(into && ["number", "textarea"].includes(event.target.type))) hide();
    else if (!into && event.key === "ArrowLeft") store.set({ time: Math.max(0, state.time - 1) });
    else if (!into && event.key === "ArrowRight") store.set({ time: state.time + 1 });
    else return;
    event.preventDefault();
  });

  let opened = [];
  new ResizeObserver(() => rnnscope.reachable(document)).observe(document.body);
  window.addEventListener("beforeprint", () => {
    document.body.classList.add("printing"); // paper's own widths, whatever the window's
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of document.querySelectorAll("details")) {
      each.open = true;
      each.dispatchEvent(new Event("toggle")); // drawn now: the browser's own event comes after printing
    }
  });
  window.addEventListener("afterprint", () => {
    document.body.classList.remove("printing");
    opened.forEach((each) => { each.open = false; });
    $("cell-section").dispatchEvent(new Event("toggle"));
  });

  store.listen((changed) => { bar(); if (changed.has("row")) own(); });
  const prediction = rnnscope.prediction(store);
  for (const section of ["cell-section", "unrolled-section"]) $(section).addEventListener("toggle", bar);
  rnnscope.chain(store, prediction);
  prediction.refresh?.();
  rnnscope.text(store);
  rnnscope.cellView(store);
  rnnscope.unrolled(store);
  rnnscope.maps(store);
  rnnscope.lights(store);
  rnnscope.play(store);
  rnnscope.tour(store);
  const read = () => {
    // ?hidden=1 says the same as #hidden=1; once read, all of it stands behind the #
    const asked = [...rnnscope.address.asked(location.search), /[=&%]/.test(location.hash) ? location.hash.slice(1) : ""].filter(Boolean).join("&");
    const ignored = asked ? store.read(asked) : [];
    $("notice").textContent = ignored.length ? `Not understood in the address, or not on this page, and ignored: ${ignored.join(", ")}` : "";
  };
  window.addEventListener("hashchange", read);
  read();
  bar();
  own();
})();
