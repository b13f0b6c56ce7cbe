// What stands around the layer: a text becomes tokens and numbers, a step of the output a prediction.
rnnscope.model = (record, engine) => {
  const { vocabulary, readout } = record;
  const tokens = vocabulary ? vocabulary.tokens : [];
  const numberOf = new Map(tokens.map((token, k) => [token, k]));
  const table = vocabulary && vocabulary.embedding ? rnnscope.numbers(vocabulary.embedding) : null;
  const named = readout && (readout.names === "vocabulary" ? tokens : readout.names);
  const stages = readout ? readout.stages.map((stage) => (stage.apply ? { apply: engine.compiled[stage.apply] } : {
    weight: { name: stage.weight.name, ...rnnscope.numbers(stage.weight) },
    bias: stage.bias && { name: stage.bias.name, ...rnnscope.numbers(stage.bias) },
  })) : [];
  const size = readout ? stages.findLast((stage) => stage.weight).weight.shape[0] : 0;
  const own = readout && { places: rnnscope.numbers(readout.places), values: rnnscope.numbers(readout.values) };
  const MOST = 2000;

  // text → tokens -------------------------------------------------------------------------------

  const special = tokens.filter((token) => /^(<[^<>\s]+>|\[[^[\]\s]+\])$/.test(token)).sort((a, b) => b.length - a.length);
  const split = (text) => {
    if (vocabulary.split === "spaces") return text.split(/\s+/).filter(Boolean);
    const found = [];
    for (let at = 0; at < text.length;) {
      const whole = special.find((token) => text.startsWith(token, at)) ?? String.fromCodePoint(text.codePointAt(at));
      found.push(whole);
      at += whole.length;
    }
    return found;
  };
  // {ids, labels, unknown}, or {problem} in words where the text cannot be read
  const read = (text) => {
    const found = split(text), stand = vocabulary.unknown;
    if (!found.length) return { problem: "No token in this text." };
    if (found.length > MOST) return { problem: `This text has ${found.length} tokens; the page reads ${MOST} at most.` };
    const unknown = [...new Set(found.filter((token) => !numberOf.has(token)))];
    if (unknown.length && stand === null) {
      const said = unknown.slice(0, 5).map((token) => {
        const near = [token.toLowerCase(), token.toUpperCase(), token.replace(/[^\p{L}\p{N}]+$/u, ""), token.toLowerCase().replace(/[^\p{L}\p{N}]+$/u, "")].find((each) => numberOf.has(each));
        return `“${rnnscope.shown(token)}”${near === undefined ? "" : ` (“${near}” is)`}`;
      });
      const some = tokens.slice(0, 12).map((token) => `“${rnnscope.shown(token)}”`).join(" ");
      const rest = tokens.length > 12 ? ` and ${tokens.length - 12} more` : "";
      return { problem: `Not in the vocabulary: ${said.join(", ")}${unknown.length > 5 ? ` and ${unknown.length - 5} more` : ""}. Nothing was read. The vocabulary: ${some}${rest}.` };
    }
    return { ids: found.map((token) => numberOf.get(token) ?? stand), labels: found, unknown };
  };
  // what the layer reads of tokens: (time, feature)
  const input = (ids) => {
    const features = record.features(0), found = new Float64Array(ids.length * features);
    ids.forEach((id, time) => {
      if (table) found.set(table.data.subarray(id * features, (id + 1) * features), time * features);
      else found[time * features + id] = 1;
    });
    return found;
  };

  // output → prediction -------------------------------------------------------------------------

  const output = (run, at, time) => {
    const steps = record.steps(at), top = run.planes[record.layers - 1];
    const found = new Float64Array(top.length * record.outputSize);
    top.forEach((part, d) => found.set(part.h.subarray(time * record.outputSize, (time + 1) * record.outputSize), d * record.outputSize));
    return steps > time ? found : null;
  };
  const logits = (run, at, time) => {
    let value = output(run, at, time);
    for (const stage of stages) value = stage.apply ? value.map(stage.apply) : rnnscope.affine(stage.weight, stage.bias, value, 0, stage.weight.shape[0]);
    return value;
  };
  // Every class: {logits, values}; values are probabilities, or of a single output the number itself
  const whole = (run, at, time) => {
    const found = logits(run, at, time);
    if (readout.single) return { logits: found, values: found };
    const most = found.reduce((a, b) => Math.max(a, b), -Infinity); // NaN where a logit is
    const values = found.map((v) => Math.exp(v - most)), total = values.reduce((a, b) => a + b, 0);
    return { logits: found, values: values.map((v) => v / total) };
  };
  const best = (values) => {
    const count = Math.min(5, values.length), top = [];
    for (let k = 0; k < values.length; k++) {
      if (top.length === count && !(values[k] > values[top[count - 1]])) continue;
      let at = top.findIndex((each) => values[k] > values[each]);
      if (at < 0) at = top.length;
      top.splice(at, 0, k);
      top.length = Math.min(top.length, count);
    }
    return top;
  };
  const kept = new WeakMap();
  // the most probable classes at a step: [{place, value}]; of the trace itself PyTorch's own
  const top = (run, at, time) => {
    if (!kept.has(run)) kept.set(run, new Map());
    const known = kept.get(run);
    if (known.has(time)) return known.get(time);
    let found;
    if (!record.typed(at) && run.edits.length === 0) {
      const count = own.places.shape[2], start = (at * record.time + time) * count;
      found = Array.from({ length: count }, (_, k) => ({ place: own.places.data[start + k], value: own.values.data[start + k] }));
    } else {
      const { values } = whole(run, at, time);
      found = best(values).map((place) => ({ place, value: values[place] }));
    }
    known.set(time, found);
    return found;
  };
  // the largest deviation of the page's own predictions from PyTorch's, and of how many steps
  const deviation = (run, at) => {
    if (!readout || engine.unknown.length) return null;
    const count = Math.min(record.lengths[at], Math.max(1, Math.floor(3e7 / cost)));
    let worst = 0;
    for (let time = 0; time < count; time++) {
      const { values } = whole(run, at, time);
      for (const { place, value } of top(run, at, time)) {
        const away = Math.abs(values[place] - value);
        if (away > worst) worst = away;
      }
    }
    return { worst, count };
  };
  const cost = stages.reduce((sum, stage) => sum + (stage.weight ? stage.weight.data.length : 0), 0);

  return {
    typeable: vocabulary !== null && vocabulary.untyped === "" && engine.unknown.length === 0,
    tokens: read, input, output, whole, top, deviation, stages, size, cost,
    name: (place) => (named ? named[place] || "(empty)" : String(place)),
    named: Boolean(named),
    next: Boolean(readout) && readout.names === "vocabulary",
  };
};

// a token of nothing but spaces is shown by signs
rnnscope.shown = (token) => (/^\s+$/u.test(token)
  ? Array.from(token, (sign) => ({ "\n": "⏎", "\t": "⇥" }[sign] ?? "␣")).join("") : token);
