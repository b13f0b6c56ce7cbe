// the address of a moment: #time=1&edit=x@0:9 ---------------------------------------------------

rnnscope.address = {
  KEYS: ["time", "layer", "direction", "row", "unit", "feature", "quantity", "view", "hidden", "edit", "text"],
  // of a query what is the page's own, and the rest, which is the server's and stays as it is
  asked: (search) => rnnscope.address.parts(search).filter((part) => rnnscope.address.KEYS.includes(part.split("=")[0])),
  kept: (search) => {
    const rest = rnnscope.address.parts(search).filter((part) => !rnnscope.address.KEYS.includes(part.split("=")[0]));
    return rest.length ? `?${rest.join("&")}` : "";
  },
  parts: (hash) => hash.replace(/^[#?]/, "").split("&").filter(Boolean),
  // the text that was typed; null where there is none
  text: (hash) => {
    const part = rnnscope.address.parts(hash).find((each) => each.startsWith("text="));
    try { return part ? decodeURIComponent(part.slice(5)) : null; } catch { return part.slice(5); }
  },
  // place of an edit: time | time.unit | layer.direction.time.unit; of a weight row.column
  parse: (hash, record) => {
    const found = { edits: [], ignored: [], asked: [] };
    const whole = (text, most) => (/^\d{1,9}$/.test(text ?? "") && Number(text) < most ? Number(text) : null);
    const tensors = record.weights.flat().flatMap((part) => [...Object.values(part.tensors), ...Object.values(part.vectors)]);
    const longest = Math.max(record.time, ...record.rows.map((_, row) => record.steps(row)));
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
      time = whole(time, longest);
      unit = whole(unit, record.units(name, layer));
      return time === null || unit === null ? null : { name, layer, direction, time, unit, to };
    };
    for (const part of rnnscope.address.parts(hash)) {
      let key = "", value = "";
      try { [key, value] = [part.split("=")[0], decodeURIComponent(part.slice(part.indexOf("=") + 1))]; } catch { key = ""; }
      const units = Math.max(...record.names.map((name) => record.units(name, 0)));
      const features = Math.max(...Array.from({ length: record.layers }, (_, layer) => record.features(layer)));
      const limits = { time: longest, layer: record.layers, row: record.rows.length, unit: units, feature: features };
      let fine = true;
      if (key === "text") continue; // read before all else
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
    if (record.typed(state.row)) parts.unshift(`text=${encodeURIComponent(state.text)}`);
    else if (state.row) parts.push(`row=${state.row}`);
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
