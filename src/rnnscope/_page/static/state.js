// What is chosen, what is edited, and who is told.
rnnscope.store = (record, engine, model) => {
  const state = {
    time: record.lengths[0] > 1 ? 1 : 0, layer: 0, direction: record.directions[0], row: 0, unit: 0,
    feature: 0, quantity: "h", view: "values", hidden: record.hide.includes("results"), edits: [], text: "",
  };
  const listeners = [];
  let original = engine.original(0), run = original, said = "";

  const clamp = (value, most) => Math.max(0, Math.min(most - 1, value));
  const settle = () => {
    state.row = clamp(state.row, record.rows.length);
    state.time = clamp(state.time, record.lengths[state.row]);
    state.layer = clamp(state.layer, record.layers);
    state.unit = clamp(state.unit, record.units(state.quantity, state.layer));
    state.feature = clamp(state.feature, record.features(state.layer));
  };
  const same = (a, b) => ["name", "layer", "direction", "time", "unit", "row", "column"].every((k) => a[k] === b[k]);

  const store = {
    state, record, engine, model,
    get steps() { return record.steps(state.row); },
    get run() { return run; },
    get original() { return original; },
    listen: (f) => listeners.push(f),
    set: (changes) => {
      const changed = new Set(Object.keys(changes).filter((key) => changes[key] !== state[key]));
      if (!changed.size) return;
      Object.assign(state, changes);
      settle();
      const other = changed.has("row") || changed.has("text");
      if (other) original = engine.original(state.row);
      // an edit reaches padding nowhere, only the sequence that is shown, and no text typed anew
      if (other || changed.has("edits")) {
        state.edits = state.edits.filter((e) => "column" in e || (!(changed.has("text") && record.typed(state.row)) && e.time < record.lengths[state.row]));
      }
      if (other || changed.has("edits")) run = state.edits.length ? engine.rerun(state.edits, state.row) : original;
      for (const listener of listeners) listener(changed);
      store.write();
    },
    edit: (edit) => {
      if (engine.unknown.length) return;
      store.set({ edits: [...state.edits.filter((each) => !same(each, edit)), edit] });
    },
    unedit: (edit) => store.set({ edits: state.edits.filter((each) => !same(each, edit)) }),
    // a text of the reader's, read by the layer; what keeps it from being read, or an empty text
    type: (text) => {
      if (text === "") {
        const changes = { text: "" };
        if (record.typed(state.row)) changes.row = 0;
        const { row } = changes.row === undefined ? state : changes;
        if (record.own && row !== record.traced) record.put(null);
        store.set(changes);
        return "";
      }
      const found = model.tokens(text);
      if (found.problem) return found.problem;
      engine.read(found.labels, model.input(found.ids));
      const last = state.direction === "reverse" ? 0 : found.labels.length - 1;
      store.set({ text, row: record.traced, time: last });
      return "";
    },
    editOf: (edit) => state.edits.find((each) => same(each, edit)),
    value: (of, name, layer, direction, time, unit) => {
      if (name === "x") return of.inputs[layer][time * record.features(layer) + unit];
      const plane = of.planes[layer][record.d(direction)][name];
      return plane[time * (plane.length / store.steps) + unit];
    },
    write: () => {
      const text = rnnscope.address.format(state, record);
      if (text === said) return;
      said = text;
      try { history.replaceState(null, "", `${location.pathname}${rnnscope.address.kept(location.search)}${text}`); } catch { /* a page inside a page has no address */ }
    },
    read: (hash) => {
      const text = rnnscope.address.text(hash), refused = [];
      if (text !== null && (!model.typeable || store.type(text))) refused.push(`text=${text}`.slice(0, 60));
      const found = rnnscope.address.parse(hash, record);
      const { ignored, asked, ...changes } = found;
      if (engine.unknown.length) changes.edits = [];
      store.set(changes);
      // a place that this sequence, layer or quantity does not have; an edit on its padding
      const moved = asked.filter(([key]) => key in changes && state[key] !== changes[key]).map(([, said]) => said);
      const lost = changes.edits.filter((edit) => !state.edits.includes(edit)).map(rnnscope.editName);
      return [...refused, ...ignored, ...moved, ...lost];
    },
  };
  return store;
};
