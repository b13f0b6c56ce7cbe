// The record in the page, and the arithmetic on it. Equations come as trees from the cell's
// declaration; nothing here knows a cell by name.
const rnnscope = {};

rnnscope.numbers = (held) => {
  const bytes = Uint8Array.from(atob(held.data), (c) => c.charCodeAt(0));
  const kept = held.type === "f8" ? new Float64Array(bytes.buffer) : new Float32Array(bytes.buffer);
  return { shape: held.shape, data: kept };
};

// The trace: every number by its address {layer, direction, row, time, unit}; row is a place among
// the sequences that the page holds.
rnnscope.decode = (facts) => {
  const each = (object, f) => Object.fromEntries(Object.entries(object).map(([k, v]) => [k, f(v, k)]));
  const values = each(facts.values, rnnscope.numbers);
  const x = rnnscope.numbers(facts.x);
  const initial = each(facts.initial, rnnscope.numbers);
  const masks = facts.masks.map((mask) => mask && rnnscope.numbers(mask));
  const weights = facts.weights.map((row) => row.map((part) => ({
    hidden: part.hidden,
    tensors: each(part.tensors, (held) => ({ name: held.name, ...rnnscope.numbers(held) })),
    vectors: each(part.vectors, (held) => ({ name: held.name, ...rnnscope.numbers(held) })),
  })));
  const gradients = facts.gradients && {
    values: each(facts.gradients.values, rnnscope.numbers), x: rnnscope.numbers(facts.gradients.x),
  };
  const record = {
    ...facts, values, x, initial, masks, weights, gradients, rows: [...facts.rows], lengths: [...facts.lengths],
  };
  const D = facts.directions.length, T = facts.time;
  record.d = (direction) => facts.directions.indexOf(direction);
  record.outputSize = values.h.shape[4];
  record.features = (layer) => (layer === 0 ? x.shape[2] : record.outputSize * D);
  record.units = (name, layer) => (name === "x" ? record.features(layer) : values[name].shape[4]);
  record.names = facts.cell.quantities.map((q) => q.name).filter((name) => name in values);
  // behind the traced sequences there may be one more: a text that the reader typed, {labels, x, planes}
  record.traced = facts.rows.length;
  record.own = null;
  record.typed = (row) => row === record.traced;
  record.put = (own) => {
    record.own = own;
    record.rows.length = record.lengths.length = record.traced;
    if (own) { record.rows.push("your text"); record.lengths.push(own.labels.length); }
  };
  record.steps = (row) => (record.typed(row) ? record.own.labels.length : T);
  record.labelled = (row) => record.typed(row) || facts.labels !== null;
  record.label = (row, time) => (record.typed(row) ? record.own.labels : facts.labels ? facts.labels[row] : [])[time] ?? "";
  record.valid = (row, time) => time < record.lengths[row];
  // one part's numbers of a quantity, a row of the batch: (time, unit), a view
  record.plane = (name, layer, d, row) => {
    const { shape, data } = values[name];
    if (record.typed(row)) return record.own.planes ? record.own.planes[layer][d][name] : new Float64Array(record.steps(row) * shape[4]);
    const size = T * shape[4];
    const start = ((layer * D + d) * shape[2] + row) * size;
    return data.subarray(start, start + size);
  };
  record.input = (row) => (record.typed(row) ? record.own.x : x.data.subarray(row * T * x.shape[2], (row + 1) * T * x.shape[2]));
  // a state before the first step; a typed text begins at zero, as a call without initial states does
  record.before = (state, layer, d, row) => {
    const { shape, data } = initial[state], size = shape[3];
    if (record.typed(row)) return new Float64Array(size);
    const start = ((layer * D + d) * shape[2] + row) * size;
    return data.subarray(start, start + size);
  };
  // what dropout let pass of a layer's input (time, feature); null where nothing was dropped
  record.mask = (layer, row) => {
    const size = T * record.outputSize * D;
    return masks[layer] && !record.typed(row) ? masks[layer].data.subarray(row * size, (row + 1) * size) : null;
  };
  return record;
};

// arithmetic ------------------------------------------------------------------------------------

// W v + b for the rows from start to stop; four rows at once, so that no sum waits for another
rnnscope.affine = (W, b, v, start, stop) => {
  const found = new Float64Array(stop - start), n = W.shape[1], data = W.data;
  let row = start;
  for (; row + 4 <= stop; row += 4) {
    let p = b ? b.data[row] : 0, q = b ? b.data[row + 1] : 0, r = b ? b.data[row + 2] : 0, s = b ? b.data[row + 3] : 0;
    for (let k = 0, at = row * n; k < n; k++, at++) {
      const x = v[k];
      p += data[at] * x;
      q += data[at + n] * x;
      r += data[at + 2 * n] * x;
      s += data[at + 3 * n] * x;
    }
    const place = row - start;
    found[place] = p; found[place + 1] = q; found[place + 2] = r; found[place + 3] = s;
  }
  for (; row < stop; row++) {
    let total = b ? b.data[row] : 0;
    for (let k = 0, at = row * n; k < n; k++, at++) total += data[at] * v[k];
    found[row - start] = total;
  }
  return found;
};

rnnscope.engine = (record) => {
  const cell = record.cell, D = record.directions.length;
  const compiled = Object.fromEntries(rnnscope.functions);
  const unknown = Object.keys(cell.functions).filter((name) => !(name in compiled));
  // a gate's place among the rows of W_ih, and of W_hh: only gates whose equations use them have rows
  const block = (tree) => (tree.op === "from_x" ? cell.gates_from_x : cell.gates_from_h).indexOf(tree.gate);

  // The value of a tree at all units, in the scope of a step: {part, x, before, found}
  const evaluate = (tree, scope) => {
    const pair = (f) => {
      const a = evaluate(tree.left, scope), b = evaluate(tree.right, scope);
      const size = Math.max(a.length, b.length), out = new Float64Array(size);
      const one = a.length === 1, other = b.length === 1;
      for (let u = 0; u < size; u++) out[u] = f(a[one ? 0 : u], b[other ? 0 : u]);
      return out;
    };
    switch (tree.op) {
      case "number": return Float64Array.of(tree.value);
      case "quantity": return scope.found[tree.name];
      case "previous": return scope.before[tree.name];
      case "vector": return scope.part.vectors[tree.name].data;
      case "plus": return pair((a, b) => a + b);
      case "minus": return pair((a, b) => a - b);
      case "times": return pair((a, b) => a * b);
      case "apply": return evaluate(tree.of, scope).map(compiled[tree.name]);
      case "project": {
        const W = scope.part.tensors.hr;
        return rnnscope.affine(W, null, evaluate(tree.of, scope), 0, W.shape[0]);
      }
      case "from_x": case "from_h": {
        const n = scope.part.hidden, k = block(tree), t = scope.part.tensors;
        const ofX = tree.op === "from_x";
        if (tree.of) return rnnscope.affine(t.hh, t.b_hh, evaluate(tree.of, scope), k * n, (k + 1) * n);
        const key = ofX ? "$x" : "$h";
        scope[key] ??= ofX ? rnnscope.affine(t.ih, t.b_ih, scope.x, 0, t.ih.shape[0])
          : rnnscope.affine(t.hh, t.b_hh, scope.before.h, 0, t.hh.shape[0]);
        return scope[key].subarray(k * n, (k + 1) * n);
      }
    }
    throw new Error(`unknown operation ${tree.op}`);
  };

  // The weights with edits of single numbers
  const edited = (edits) => {
    const chosen = edits.filter((edit) => "column" in edit);
    if (!chosen.length) return record.weights;
    return record.weights.map((parts) => parts.map((part) => {
      const replaced = (held) => {
        const mine = chosen.filter((edit) => edit.name === held.name);
        if (!mine.length) return held;
        const data = held.data.slice(), columns = held.shape[1] ?? 1;
        for (const edit of mine) data[edit.row * columns + edit.column] = edit.to;
        return { ...held, data };
      };
      const all = (object) => Object.fromEntries(Object.entries(object).map(([k, held]) => [k, replaced(held)]));
      return { ...part, tensors: all(part.tensors), vectors: all(part.vectors) };
    }));
  };

  // One part over time, from the first step that anything changes; what comes before is the record's
  const runPart = (part, layer, d, at, x, edits, first) => {
    const reverse = record.directions[d] === "reverse", length = record.lengths[at], T = record.steps(at);
    const here = edits.filter((e) => e.layer === layer && e.direction === record.directions[d] && e.name !== "x");
    const planes = {};
    for (const { name } of cell.equations) {
      planes[name] = name in record.values ? Float64Array.from(record.plane(name, layer, d, at))
        : new Float64Array(T * part.hidden);
    }
    let before = Object.fromEntries(cell.states.map((state) => [state, Float64Array.from(record.before(state, layer, d, at))]));
    const features = x.length / T;
    for (let k = 0; k < length; k++) {
      const time = reverse ? length - 1 - k : k;
      const slice = (plane) => plane.subarray(time * plane.length / T, (time + 1) * plane.length / T);
      if (k < first) {
        before = Object.fromEntries(cell.states.map((state) => [state, slice(planes[state]).slice()]));
        continue;
      }
      const scope = { part, before, found: {}, x: x.subarray(time * features, (time + 1) * features) };
      const now = here.filter((edit) => edit.time === time);
      for (const { name, tree } of cell.equations) {
        const value = Float64Array.from(evaluate(tree, scope));
        for (const edit of now) if (edit.name === name) value[edit.unit] = edit.to;
        scope.found[name] = value;
        slice(planes[name]).set(value);
      }
      before = Object.fromEntries(cell.states.map((state) => [state, scope.found[state]]));
    }
    return planes;
  };

  // Where in a part's own order the first edit of it stands
  const begins = (edits, layer, d, at) => {
    const reverse = record.directions[d] === "reverse", length = record.lengths[at];
    let first = length;
    for (const edit of edits) {
      if ("column" in edit) {
        const held = record.weights[layer][d];
        const mine = [...Object.values(held.tensors), ...Object.values(held.vectors)];
        if (mine.some((tensor) => tensor.name === edit.name)) first = 0;
      } else if (edit.layer === layer && (edit.name === "x" || edit.direction === record.directions[d])) {
        first = Math.min(first, reverse ? length - 1 - edit.time : edit.time);
      }
    }
    return first;
  };

  // The call once more with edits: an edit is {name, layer, direction, time, unit, to}, or of a
  // weight {name, row, column, to}; of one sequence.
  const rerun = (edits, at, whole = false) => {
    const weights = edited(edits), planes = [], inputs = [], T = record.steps(at);
    let x = Float64Array.from(record.input(at)), below = null;
    for (let layer = 0; layer < record.layers; layer++) {
      let firsts = record.directions.map((_, d) => (whole ? 0 : begins(edits, layer, d, at)));
      if (below) {
        x = new Float64Array(T * record.features(layer));
        const size = record.outputSize, mask = record.mask(layer, at);
        below.forEach((part, d) => {
          for (let t = 0; t < T; t++) for (let u = 0; u < size; u++) {
            const place = t * size * D + d * size + u;
            x[place] = part.h[t * size + u] * (mask ? mask[place] : 1);
          }
        });
        if (below.changed) firsts = firsts.map(() => 0);
      }
      for (const edit of edits) {
        if (edit.name === "x" && edit.layer === layer) x[edit.time * record.features(layer) + edit.unit] = edit.to;
      }
      inputs.push(x);
      const parts = record.directions.map((_, d) => runPart(weights[layer][d], layer, d, at, x, edits, firsts[d]));
      parts.changed = (below && below.changed) || firsts.some((first) => first < record.lengths[at]);
      planes.push(parts);
      below = parts;
    }
    return { planes, inputs, weights, edits };
  };

  // The record itself in the form of a rerun
  const original = (at) => {
    const planes = [], inputs = [], T = record.steps(at);
    let x = record.input(at);
    for (let layer = 0; layer < record.layers; layer++) {
      inputs.push(x);
      planes.push(record.directions.map((_, d) => Object.fromEntries(record.names.map((name) => [name, record.plane(name, layer, d, at)]))));
      const size = record.outputSize, mask = layer + 1 < record.layers ? record.mask(layer + 1, at) : null;
      const next = new Float64Array(T * size * D);
      planes[layer].forEach((part, d) => {
        for (let t = 0; t < T; t++) for (let u = 0; u < size; u++) {
          const place = t * size * D + d * size + u;
          next[place] = part.h[t * size + u] * (mask ? mask[place] : 1);
        }
      });
      x = next;
    }
    return { planes, inputs, weights: record.weights, edits: [] };
  };

  // The largest deviation of the page's own arithmetic from the record, of one sequence
  const deviation = (at) => {
    if (unknown.length) return null;
    let worst = 0;
    let x = original(at).inputs;
    for (let layer = 0; layer < record.layers; layer++) {
      record.directions.forEach((_, d) => {
        const planes = runPart(record.weights[layer][d], layer, d, at, Float64Array.from(x[layer]), [], 0);
        for (const name of record.names) {
          const own = record.plane(name, layer, d, at), size = own.length / record.steps(at);
          for (let k = 0; k < record.lengths[at] * size; k++) {
            const away = Math.abs(planes[name][k] - own[k]);
            if (away > worst) worst = away;
          }
        }
      });
    }
    return worst;
  };

  // One number of a run explained: the terms of its equation, each with where it comes from
  const explain = (run, name, place, at) => {
    const { layer, direction, time, unit } = place, d = record.d(direction), T = record.steps(at);
    const part = run.weights[layer][d], length = record.lengths[at];
    const reverse = direction === "reverse", earlier = reverse ? time + 1 : time - 1;
    const first = reverse ? time === length - 1 : time === 0;
    const planes = run.planes[layer][d];
    const cut = (plane, t) => plane.subarray(t * plane.length / T, (t + 1) * plane.length / T);
    const before = Object.fromEntries(cell.states.map((state) => [state, first ? record.before(state, layer, d, at) : cut(planes[state], earlier)]));
    const x = run.inputs[layer], features = x.length / T;
    const found = Object.fromEntries(record.names.map((each) => [each, cut(planes[each], time)]));
    const scope = { part, before, found, x: x.subarray(time * features, (time + 1) * features) };
    const one = (tree) => { const value = evaluate(tree, scope); return value[value.length === 1 ? 0 : unit]; };
    const equation = cell.equations.find((each) => each.name === name);
    const own = { layer, direction, time, unit };
    const leaves = [];
    const products = (tree) => {
      const n = part.hidden, k = block(tree), t = part.tensors;
      const ofX = tree.op === "from_x";
      const W = tree.op === "project" ? t.hr : ofX ? t.ih : t.hh, b = tree.op === "project" ? null : ofX ? t.b_ih : t.b_hh;
      const r = tree.op === "project" ? unit : k * n + unit;
      const v = ofX ? scope.x : tree.of ? evaluate(tree.of, scope) : before.h;
      const every = Array.from(v, (value, j) => {
        const weight = W.data[r * W.shape[1] + j];
        let target = null;
        if (ofX) target = layer === 0 ? { name: "x", layer, direction, time, unit: j }
          : { name: "h", layer: layer - 1, direction: record.directions[Math.floor(j / record.outputSize)], time, unit: j % record.outputSize };
        else if (tree.op === "from_h" && !tree.of && !first) target = { name: "h", layer, direction, time: earlier, unit: j };
        else if (tree.of && tree.of.op === "quantity") target = { name: tree.of.name, layer, direction, time, unit: j };
        return { weight: `${W.name}[${r}, ${j}]`, tensor: W.name, row: r, column: j, value: weight, factor: value, product: weight * value, target };
      });
      return { every, bias: b ? { name: `${b.name}[${r}]`, tensor: b.name, row: r, column: 0, value: b.data[r] } : null };
    };
    const walk = (tree) => {
      switch (tree.op) {
        case "number": return;
        case "quantity": leaves.push({ symbol: tree.name, value: one(tree), target: { ...own, name: tree.name } }); return;
        case "previous": leaves.push({ symbol: `${tree.name} before`, value: one(tree), target: first ? null : { ...own, name: tree.name, time: earlier }, first }); return;
        case "vector": leaves.push({ symbol: part.vectors[tree.name].name, value: one(tree), target: null }); return;
        case "from_x": leaves.push({ op: tree.op, gate: tree.gate, value: one(tree), target: null, ...products(tree) }); return;
        case "from_h": leaves.push({ op: tree.op, gate: tree.gate, of: tree.of && (tree.of.op === "quantity" ? tree.of.name : "…"), value: one(tree), target: null, ...products(tree) }); if (tree.of) walk(tree.of); return;
        case "project": leaves.push({ op: tree.op, of: tree.of.op === "quantity" ? tree.of.name : "…", value: one(tree), target: null, ...products(tree) }); return;
        case "apply": walk(tree.of); return;
        default: walk(tree.left); walk(tree.right);
      }
    };
    walk(equation.tree);
    const show = rnnscope.number;
    // with numbers in the place of letters; a product of few is written out
    const few = (tree) => {
      const { every, bias } = products(tree);
      return every.length + (bias ? 1 : 0) <= 2 ? { every, bias } : null;
    };
    const filled = (tree, open) => {
      const within = (inner) => {
        const text = filled(inner, open);
        return inner.op === "plus" || inner.op === "minus" || text.startsWith("-") ? `(${text})` : text;
      };
      switch (tree.op) {
        case "number": return String(tree.value);
        case "apply": return `${tree.symbol}(${filled(tree.of, open)})`;
        case "times": return `${within(tree.left)} × ${within(tree.right)}`;
        case "plus": case "minus": {
          const right = filled(tree.right, open), negative = right.startsWith("-") && (tree.op === "plus" || !/ [+−] /.test(right));
          const minus = (tree.op === "minus") !== negative;
          return `${filled(tree.left, open)} ${minus ? "−" : "+"} ${negative ? right.slice(1) : tree.op === "minus" && / [+−] /.test(right) ? `(${right})` : right}`;
        }
        case "from_x": case "from_h": case "project": {
          const held = open && few(tree);
          if (!held) return show(one(tree));
          const texts = held.every.map((p) => `${rnnscope.significant(p.value)} × ${p.factor < 0 ? `(${show(p.factor)})` : show(p.factor)}`);
          if (held.bias) texts.push(show(held.bias.value));
          return texts.reduce((all, text) => (text.startsWith("-") ? `${all} − ${text.slice(1)}` : `${all} + ${text}`));
        }
        default: return show(one(tree));
      }
    };
    const lines = [filled(equation.tree, true), filled(equation.tree, false)];
    if (equation.tree.op === "apply") lines.push(`${equation.tree.symbol}(${show(one(equation.tree.of))})`);
    const set = run.edits.find((e) => e.name === name && e.layer === layer && e.direction === direction && e.time === time && e.unit === unit);
    return {
      value: found[name][unit], equation, leaves, set: Boolean(set),
      lines: [...new Set(lines)].filter((line) => line !== show(found[name][unit])), before: first ? "initial" : earlier,
    };
  };

  // How much of a unit's arguments comes from the state before: Σ|W_h h| of Σ|W_x x| + Σ|W_h h|,
  // the sums over the products that stand in the equations, W_h (r × h) where that is what stands
  // there; null where no equation has a product with the state before, or it cannot be computed
  const ofX = [], ofH = [];
  const collect = (tree) => {
    if (tree.op === "from_x") ofX.push(tree);
    if (tree.op === "from_h") ofH.push(tree);
    for (const key of ["left", "right", "of"]) if (tree[key]) collect(tree[key]);
  };
  for (const { tree } of cell.equations) collect(tree);
  const share = (run, layer, direction, time, unit, at) => {
    if (!ofH.length || unknown.length) return null;
    const d = record.d(direction), part = run.weights[layer][d], n = part.hidden, T = record.steps(at);
    const reverse = direction === "reverse", earlier = reverse ? time + 1 : time - 1;
    const first = reverse ? time === record.lengths[at] - 1 : time === 0;
    const planes = run.planes[layer][d], cut = (plane, t) => plane.subarray(t * plane.length / T, (t + 1) * plane.length / T);
    const x = cut(run.inputs[layer], time);
    const scope = {
      part, x,
      before: Object.fromEntries(cell.states.map((state) => [state, first ? record.before(state, layer, d, at) : cut(planes[state], earlier)])),
      found: Object.fromEntries(Object.keys(planes).map((name) => [name, cut(planes[name], time)])),
    };
    const dot = (W, r, v) => {
      let total = 0;
      for (let k = 0, w = r * W.shape[1]; k < W.shape[1]; k++, w++) total += W.data[w] * v[k];
      return Math.abs(total);
    };
    let x_part = 0, h_part = 0;
    for (const tree of ofX) x_part += dot(part.tensors.ih, block(tree) * n + unit, x);
    for (const tree of ofH) h_part += dot(part.tensors.hh, block(tree) * n + unit, tree.of ? evaluate(tree.of, scope) : scope.before.h);
    return x_part + h_part === 0 ? 0 : Number.isFinite(h_part / (x_part + h_part)) ? h_part / (x_part + h_part) : null;
  };

  // A text read by the layer: it becomes the sequence behind the traced ones
  const read = (labels, input) => {
    record.put({ labels, x: input, planes: null });
    record.own.planes = rerun([], record.traced, true).planes;
  };

  return { rerun, original, explain, share, deviation, read, unknown, carries: ofH.length > 0, compiled };
};

// how numbers are written -----------------------------------------------------------------------

rnnscope.number = (value) => {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (value === 0) return "0";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  return size < 1e-4 || size >= 1e6 ? rnnscope.exponent(value, 5) : value.toFixed(6);
};

rnnscope.exponent = (value, digits) => value.toExponential(digits).replace(/e([+-])(\d)$/, "e$10$2");

// six significant digits, as weights are written
rnnscope.significant = (value) => {
  if (!Number.isFinite(value) || value === 0) return rnnscope.number(value);
  const size = Math.abs(value);
  return size < 1e-4 || size >= 1e6 ? rnnscope.exponent(value, 5) : String(Number(value.toPrecision(6)));
};
