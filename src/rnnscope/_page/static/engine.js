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
  const record = { ...facts, values, x, initial, masks, weights, gradients };
  const D = facts.directions.length, T = facts.time;
  record.d = (direction) => facts.directions.indexOf(direction);
  record.outputSize = values.h.shape[4];
  record.features = (layer) => (layer === 0 ? x.shape[2] : record.outputSize * D);
  record.units = (name, layer) => (name === "x" ? record.features(layer) : values[name].shape[4]);
  record.names = facts.cell.quantities.map((q) => q.name).filter((name) => name in values);
  record.label = (row, time) => (facts.labels ? facts.labels[row][time] ?? "" : "");
  record.valid = (row, time) => time < facts.lengths[row];
  // one part's numbers of a quantity, a row of the batch: (time, unit), a view
  record.plane = (name, layer, d, row) => {
    const { shape, data } = values[name];
    const size = T * shape[4];
    const start = ((layer * D + d) * shape[2] + row) * size;
    return data.subarray(start, start + size);
  };
  record.input = (row) => x.data.subarray(row * T * x.shape[2], (row + 1) * T * x.shape[2]);
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
  const cell = record.cell, T = record.time, D = record.directions.length;
  const missing = Object.entries(cell.functions).filter(([, script]) => !script).map(([name]) => name);
  const compiled = Object.fromEntries(rnnscope.functions);
  const unknown = missing.concat(Object.keys(cell.functions).filter((name) => !(name in compiled)));
  const row = (gate) => cell.gates.indexOf(gate);

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
        const n = scope.part.hidden, k = row(tree.gate), t = scope.part.tensors;
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
    const reverse = record.directions[d] === "reverse", length = record.lengths[at];
    const here = edits.filter((e) => e.layer === layer && e.direction === record.directions[d] && e.name !== "x");
    const planes = {};
    for (const { name } of cell.equations) {
      planes[name] = name in record.values ? Float64Array.from(record.plane(name, layer, d, at))
        : new Float64Array(T * part.hidden);
    }
    let before = {};
    for (const state of cell.states) {
      const { shape, data } = record.initial[state], size = shape[3];
      const start = ((layer * D + d) * shape[2] + at) * size;
      before[state] = Float64Array.from(data.subarray(start, start + size));
    }
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
  const rerun = (edits, at) => {
    const weights = edited(edits), planes = [], inputs = [];
    let x = Float64Array.from(record.input(at)), below = null;
    for (let layer = 0; layer < record.layers; layer++) {
      let firsts = record.directions.map((_, d) => begins(edits, layer, d, at));
      if (below) {
        x = new Float64Array(T * record.features(layer));
        const size = record.outputSize, mask = record.masks[layer];
        below.forEach((part, d) => {
          for (let t = 0; t < T; t++) for (let u = 0; u < size; u++) {
            const place = t * size * D + d * size + u;
            const share = mask ? mask.data[at * T * size * D + place] : 1;
            x[place] = part.h[t * size + u] * share;
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
    const planes = [], inputs = [];
    let x = record.input(at);
    for (let layer = 0; layer < record.layers; layer++) {
      inputs.push(x);
      planes.push(record.directions.map((_, d) => Object.fromEntries(record.names.map((name) => [name, record.plane(name, layer, d, at)]))));
      const size = record.outputSize, mask = record.masks[layer + 1];
      const next = new Float64Array(T * size * D);
      planes[layer].forEach((part, d) => {
        for (let t = 0; t < T; t++) for (let u = 0; u < size; u++) {
          const place = t * size * D + d * size + u;
          next[place] = part.h[t * size + u] * (mask ? mask.data[at * T * size * D + place] : 1);
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
          const own = record.plane(name, layer, d, at), size = own.length / T;
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
    const { layer, direction, time, unit } = place, d = record.d(direction);
    const part = run.weights[layer][d], length = record.lengths[at];
    const reverse = direction === "reverse", earlier = reverse ? time + 1 : time - 1;
    const first = reverse ? time === length - 1 : time === 0;
    const planes = run.planes[layer][d];
    const cut = (plane, t) => plane.subarray(t * plane.length / T, (t + 1) * plane.length / T);
    const before = Object.fromEntries(cell.states.map((state) => {
      const { shape, data } = record.initial[state], size = shape[3];
      const start = ((layer * D + d) * shape[2] + at) * size;
      return [state, first ? data.subarray(start, start + size) : cut(planes[state], earlier)];
    }));
    const x = run.inputs[layer], features = x.length / T;
    const found = Object.fromEntries(record.names.map((each) => [each, cut(planes[each], time)]));
    const scope = { part, before, found, x: x.subarray(time * features, (time + 1) * features) };
    const one = (tree) => { const value = evaluate(tree, scope); return value[value.length === 1 ? 0 : unit]; };
    const equation = cell.equations.find((each) => each.name === name);
    const own = { layer, direction, time, unit };
    const leaves = [];
    const products = (tree) => {
      const n = part.hidden, k = row(tree.gate), t = part.tensors;
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
  // the sums over the gates whose equations use them; null where none uses the state before
  const share = (run, layer, direction, time, unit, at) => {
    const d = record.d(direction), part = run.weights[layer][d], n = part.hidden;
    const reverse = direction === "reverse";
    const first = reverse ? time === record.lengths[at] - 1 : time === 0;
    const x = run.inputs[layer], features = x.length / T;
    const { shape, data } = record.initial.h, size = shape[3];
    const start = ((layer * D + d) * shape[2] + at) * size;
    const h = run.planes[layer][d].h, earlier = reverse ? time + 1 : time - 1;
    const dot = (W, r, v, from) => {
      let total = 0;
      for (let k = 0, w = r * W.shape[1]; k < W.shape[1]; k++, w++) total += W.data[w] * v[from + k];
      return Math.abs(total);
    };
    if (!cell.gates_from_h.length) return null;
    let ofX = 0, ofH = 0;
    for (const gate of cell.gates_from_x) ofX += dot(part.tensors.ih, cell.gates.indexOf(gate) * n + unit, x, time * features);
    for (const gate of cell.gates_from_h) {
      const row = cell.gates.indexOf(gate) * n + unit;
      ofH += first ? dot(part.tensors.hh, row, data, start) : dot(part.tensors.hh, row, h, earlier * size);
    }
    return ofX + ofH > 0 ? ofH / (ofX + ofH) : 0;
  };

  return { rerun, original, explain, share, deviation, unknown };
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

// the address of a moment: #time=1&edit=x@0:9 ---------------------------------------------------

rnnscope.address = {
  // place of an edit: time | time.unit | layer.direction.time.unit; of a weight row.column
  parse: (hash, record) => {
    const found = { edits: [], ignored: [], asked: [] };
    const whole = (text, most) => (/^\d{1,9}$/.test(text ?? "") && Number(text) < most ? Number(text) : null);
    const tensors = record.weights.flat().flatMap((part) => [...Object.values(part.tensors), ...Object.values(part.vectors)]);
    const edit = (text) => {
      const match = /^([^@]+)@([^:]+):(.+)$/.exec(text);
      const to = match && /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(match[3]) ? Number(match[3]) : NaN;
      if (!Number.isFinite(to)) return null;
      const [, name, place] = match, at = place.split(".");
      const tensor = tensors.find((each) => each.name === name);
      if (tensor) {
        const row = whole(at[0], tensor.shape[0]), column = whole(at[1] ?? "0", tensor.shape[1] ?? 1);
        return row === null || column === null || at.length > 2 ? null : { name, row, column, to };
      }
      if (name !== "x" && !record.names.includes(name)) return null;
      let [layer, direction, time, unit] = at.length === 4 ? at : ["0", record.directions[0], at[0], at[1] ?? "0"];
      layer = whole(layer, record.layers);
      if (at.length === 3 || at.length > 4 || layer === null || !record.directions.includes(direction)) return null;
      time = whole(time, record.time);
      unit = whole(unit, record.units(name, layer));
      return time === null || unit === null ? null : { name, layer, direction, time, unit, to };
    };
    let text = hash.replace(/^#/, "");
    for (const part of text.split("&").filter(Boolean)) {
      let key = "", value = "";
      try { [key, value] = [part.split("=")[0], decodeURIComponent(part.slice(part.indexOf("=") + 1))]; } catch { key = ""; }
      const units = Math.max(...record.names.map((name) => record.units(name, 0)));
      const features = Math.max(...Array.from({ length: record.layers }, (_, layer) => record.features(layer)));
      const limits = { time: record.time, layer: record.layers, row: record.rows.length, unit: units, feature: features };
      let fine = true;
      if (key in limits) { const k = whole(value, limits[key]); fine = k !== null; if (fine) found[key] = k; }
      else if (key === "direction") { fine = record.directions.includes(value); if (fine) found.direction = value; }
      else if (key === "quantity") { fine = record.names.includes(value); if (fine) found.quantity = value; }
      else if (key === "view") { fine = ["values", "change", "gradients"].includes(value); if (fine) found.view = value; }
      else if (key === "hidden") { fine = value === "1"; if (fine) found.hidden = true; }
      else if (key === "edit") { const one = edit(value); fine = one !== null; if (fine) found.edits.push(one); }
      else fine = false;
      if (!fine) found.ignored.push(part.slice(0, 60));
      else if (key !== "edit") found.asked.push([key, part.slice(0, 60)]);
    }
    return found;
  },
  format: (state, record) => {
    const parts = [`time=${state.time}`];
    if (state.layer) parts.push(`layer=${state.layer}`);
    if (state.direction !== record.directions[0]) parts.push(`direction=${state.direction}`);
    if (state.row) parts.push(`row=${state.row}`);
    if (state.unit) parts.push(`unit=${state.unit}`);
    if (state.feature) parts.push(`feature=${state.feature}`);
    if (state.quantity !== "h") parts.push(`quantity=${state.quantity}`);
    if (state.view !== "values") parts.push(`view=${state.view}`);
    if (state.hidden) parts.push("hidden=1");
    for (const edit of state.edits) {
      let place;
      if ("column" in edit) place = `${edit.row}.${edit.column}`;
      else if (edit.layer === 0 && edit.direction === record.directions[0]) place = edit.unit ? `${edit.time}.${edit.unit}` : `${edit.time}`;
      else place = `${edit.layer}.${edit.direction}.${edit.time}.${edit.unit}`;
      parts.push(`edit=${edit.name}@${place}:${Number(edit.to.toPrecision(9))}`);
    }
    return `#${parts.join("&")}`;
  },
};
