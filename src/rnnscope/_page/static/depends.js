// What a number depends on, to the first input, derived from the equations' trees.

// the quantities of this step, the states before it, and whether the input, that a tree uses
rnnscope.uses = (tree, found = { quantities: new Set(), previous: new Set(), x: false }) => {
  if (tree.op === "quantity") found.quantities.add(tree.name);
  if (tree.op === "previous") found.previous.add(tree.name);
  if (tree.op === "from_x") found.x = true;
  if (tree.op === "from_h" && !tree.of) found.previous.add("h");
  for (const key of ["left", "right", "of"]) if (tree[key]) rnnscope.uses(tree[key], found);
  return found;
};

rnnscope.depends = (record) => {
  const used = Object.fromEntries(record.cell.equations.map(({ name, tree }) => [name, rnnscope.uses(tree)]));
  // Every place on which a number depends, itself included: has(name, layer, d, time); "x" is a
  // layer's input, "prediction" the readout's of a step
  return (name, layer, d, time, row) => {
    const length = record.lengths[row], D = record.directions.length, todo = [];
    const seen = Array.from({ length: record.layers * D }, () => ({})); // by part, by name: the steps
    const mark = (name, layer, d, time) => {
      const held = (seen[layer * D + (name === "x" ? 0 : d)][name] ??= new Uint8Array(length));
      if (held[time]) return;
      held[time] = 1;
      todo.push([name, layer, d, time]);
    };
    const initial = new Set();
    const outputs = (layer, time) => record.directions.forEach((_, d) => mark("h", layer, d, time));
    if (name === "prediction") outputs(record.layers - 1, time); else mark(name, layer, d, time);
    while (todo.length) {
      const [name, layer, d, time] = todo.pop();
      if (name === "x") { if (layer > 0) outputs(layer - 1, time); continue; }
      const { quantities, previous, x } = used[name];
      if (x) mark("x", layer, d, time);
      for (const each of quantities) mark(each, layer, d, time);
      const earlier = record.directions[d] === "reverse" ? time + 1 : time - 1;
      for (const state of previous) {
        if (earlier < 0 || earlier >= length) initial.add(state); else mark(state, layer, d, earlier);
      }
    }
    return {
      has: (name, layer, d, time) => Boolean(seen[layer * D + (name === "x" ? 0 : d)][name]?.[time]),
      // whether, at each step of a part, any of its quantities is depended on
      steps: (layer, d) => {
        const held = record.cell.equations.map(({ name }) => seen[layer * D + d][name]).filter(Boolean);
        return Array.from({ length }, (_, time) => held.some((each) => each[time]));
      },
      initial,
    };
  };
};
