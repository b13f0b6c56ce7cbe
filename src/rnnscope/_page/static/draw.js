// Elements, colours and words that every part of the page uses.
rnnscope.make = (tag, attributes = {}, ...children) => {
  const svg = ["svg", "line", "rect", "path", "circle", "text", "g"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
};

// MathML that came with the record, from the cell's declaration
rnnscope.math = (source) => {
  const text = source.replace("<math>", '<math xmlns="http://www.w3.org/1998/Math/MathML">');
  const parsed = new DOMParser().parseFromString(text, "application/xml").documentElement;
  return document.importNode(parsed, true);
};

// what is wider than its place can be scrolled by keyboard too
rnnscope.reachable = (within) => {
  for (const each of within.querySelectorAll(".symbolic, .products, .graph, .classes, .tokens")) {
    if (each.scrollWidth > each.clientWidth || (each.matches(".tokens") && each.scrollHeight > each.clientHeight + 1)) each.tabIndex = 0; else each.removeAttribute("tabindex");
  }
};

rnnscope.stops = {
  gate: [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]],
  signed: [[127, 59, 8], [214, 130, 40], [247, 247, 247], [67, 147, 195], [5, 48, 97]], // as the bars of h: blue above zero
};
rnnscope.colour = (stops, share) => {
  if (!Number.isFinite(share)) return [200, 0, 160];
  const at = Math.max(0, Math.min(1, share)) * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(at));
  return stops[k].map((from, i) => Math.round(from + (stops[k + 1][i] - from) * (at - k)));
};

// black or white, whichever is easier to read on a colour
rnnscope.ink = (colour) => {
  const [r, g, b] = colour.map((v) => { const c = v / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
};

// the scale of a map: its ends and the colours between
rnnscope.key = (low, high, stops) => {
  const { make } = rnnscope, lead = stops === rnnscope.stops.gate ? "gate" : "signed";
  const end = (value) => make("span", { class: "number" }, String(Number(value.toPrecision(3))));
  return make("span", { class: "key" }, end(low), make("span", { class: `ramp ${lead}` }), end(high));
};

// numbers as pixels, 1024 colours from low to high; quick enough for every map while one drags
rnnscope.painter = (stops, low, high) => {
  const bytes = new Uint8ClampedArray(4 * 1025), pixels = new Uint32Array(bytes.buffer);
  for (let k = 0; k < 1024; k++) bytes.set([...rnnscope.colour(stops, k / 1023), 255], 4 * k);
  bytes.set([...rnnscope.colour(stops, NaN), 255], 4 * 1024);
  const scale = 1023 / (high - low);
  return (value) => pixels[Number.isFinite(value) ? Math.max(0, Math.min(1023, Math.round((value - low) * scale))) : 1024];
};

// [smallest, largest, colours] for the map of a quantity
rnnscope.scale = (range, planes) => {
  if (range && range[0] === 0 && range[1] === 1) return [0, 1, rnnscope.stops.gate];
  let most = range ? Math.max(...range.map(Math.abs)) : 0;
  if (!range) for (const plane of planes) for (const v of plane) if (Number.isFinite(v)) most = Math.max(most, Math.abs(v));
  return [-(most || 1), most || 1, rnnscope.stops.signed];
};

// what colours mean that are not on the scale, where there are any
rnnscope.marks = (record, row, planes, padding) => [
  record.lengths[row] < record.steps(row) ? ` ${padding}: padding.` : "",
  planes.some((plane) => plane && plane.some((v) => !Number.isFinite(v))) ? " Magenta: NaN or infinite." : "",
].join("");

rnnscope.stepName = (record, row, time) => {
  const label = record.label(row, time);
  return `step ${time + 1} of ${record.lengths[row]}, time=${time}${label ? `, “${rnnscope.shown(label)}”` : ""}`;
};

rnnscope.editName = (edit) => ("column" in edit ? `${edit.name}[${edit.row}, ${edit.column}]`
  : `${edit.name}, layer ${edit.layer}${edit.name === "x" ? "" : `, ${edit.direction}`}, time=${edit.time}, ${edit.name === "x" ? "feature" : "unit"} ${edit.unit}`);

// how far a slider goes: twice the largest, to a round number
rnnscope.reach = (values) => {
  let most = 0;
  for (const v of values) if (Number.isFinite(v)) most = Math.max(most, Math.abs(v));
  if (!most) return 1;
  const power = 10 ** Math.floor(Math.log10(2 * most));
  return Math.ceil((2 * most) / power) * power;
};

// a slider whose value is only set from outside while nobody drags it
rnnscope.slider = (label, reach, value, input) => {
  const element = rnnscope.make("input", { type: "range", min: reach[0], max: reach[1], step: "any", "aria-label": label });
  element.value = value;
  element.setAttribute("aria-valuetext", rnnscope.number(value));
  element.addEventListener("input", () => input(Number(element.value)));
  return element;
};
rnnscope.setSlider = (element, value) => {
  if (Number(element.value) !== value) element.value = value;
  element.setAttribute("aria-valuetext", rnnscope.number(value));
};
