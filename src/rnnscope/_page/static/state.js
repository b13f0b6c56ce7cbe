// What is chosen, what is edited, and who is told.
rnnscope.store = (record, engine) => {
  const state = {
    time: record.lengths[0] > 1 ? 1 : 0, layer: 0, direction: record.directions[0], row: 0, unit: 0,
    feature: 0, quantity: "h", view: "values", hidden: false, edits: [],
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
    state, record, engine,
    get run() { return run; },
    get original() { return original; },
    listen: (f) => listeners.push(f),
    set: (changes) => {
      const changed = new Set(Object.keys(changes).filter((key) => changes[key] !== state[key]));
      if (!changed.size) return;
      Object.assign(state, changes);
      settle();
      // an edit reaches padding nowhere, and only the sequence that is shown
      if (changed.has("row")) original = engine.original(state.row);
      if (changed.has("row") || changed.has("edits")) {
        state.edits = state.edits.filter((e) => "column" in e || e.time < record.lengths[state.row]);
      }
      if (changed.has("edits") || changed.has("row")) run = state.edits.length ? engine.rerun(state.edits, state.row) : original;
      for (const listener of listeners) listener(changed);
      store.write();
    },
    edit: (edit) => {
      if (engine.unknown.length) return;
      store.set({ edits: [...state.edits.filter((each) => !same(each, edit)), edit] });
    },
    unedit: (edit) => store.set({ edits: state.edits.filter((each) => !same(each, edit)) }),
    editOf: (edit) => state.edits.find((each) => same(each, edit)),
    value: (of, name, layer, direction, time, unit) => {
      if (name === "x") return of.inputs[layer][time * record.features(layer) + unit];
      const plane = of.planes[layer][record.d(direction)][name];
      return plane[time * (plane.length / record.time) + unit];
    },
    write: () => {
      const text = rnnscope.address.format(state, record);
      if (text === said) return;
      said = text;
      try { history.replaceState(null, "", text); } catch { /* a page inside a page has no address */ }
    },
    read: (hash) => {
      const found = rnnscope.address.parse(hash, record);
      const { ignored, asked, ...changes } = found;
      if (engine.unknown.length) changes.edits = [];
      store.set(changes);
      // a place that this sequence, layer or quantity does not have; an edit on its padding
      const moved = asked.filter(([key]) => key in changes && state[key] !== changes[key]).map(([, said]) => said);
      const lost = changes.edits.filter((edit) => !state.edits.includes(edit)).map(rnnscope.editName);
      return [...ignored, ...moved, ...lost];
    },
  };
  return store;
};
