// Five stops through the page, each beside the part that it tells of.
rnnscope.tour = (store) => {
  const { record, state, model } = store;
  const $ = (id) => document.getElementById(id), box = $("tour");
  const shown = (element) => element && element.getClientRects().length > 0;
  const gates = record.cell.gates.length > 1;
  const open = (id) => { $(id).open = true; $(id).dispatchEvent(new Event("toggle")); };

  const stops = [
    {
      title: "What you see",
      at: () => $("scroller"),
      text: `One layer, ${record.title.startsWith("nn.") ? record.title.split("(")[0] : record.cell.name}, drawn once for each step of the sequence: the same weights every time. The input x comes in from below, the hidden state h goes out on top, and the arrow from box to box carries the state on.`,
    },
    {
      title: "The step",
      at: () => $("arithmetic"),
      text: "The marked box is the step that you are at. Here stand its equations, with this step's own numbers, line by line. Move with ← and →, with the slider on top, with ▶, or click a box.",
    },
    {
      title: gates ? "The gates" : "Inside the cell",
      at: () => $("cell-section"), before: () => open("cell-section"),
      text: gates
        ? `Inside the cell: ${record.cell.gates.join(", ")} and what they are made of. Choose one for its equation; choose a term to go where it comes from. Point at one: all that it depends on lights up, to the first input.`
        : "What the state is made of. Choose a term of the equation to go where it comes from. Point at the state: all that it depends on lights up, to the first input.",
    },
    {
      title: "Drag a number",
      at: () => document.querySelector(`#chain .step[data-time="${state.time}"] .in`) ?? $("scroller"),
      text: "Drag this input, or a weight: every later step is computed again by the layer's own equations, and the old values stay visible beside the new ones. “Reset edits” takes all of it back.",
    },
    record.readout ? {
      title: "The prediction",
      at: () => $("prediction"),
      text: `What the readout makes of the output at this step${model.typeable ? ". Type a text of your own above, and the same model reads it" : ""}.`,
    } : model.typeable ? {
      title: "Your own text", at: () => $("text-section"),
      text: "Type a text, and the same layer reads it: every number on the page is then of your text.",
    } : {
      title: "Every number", at: () => $("maps-section"), before: () => open("maps-section"),
      text: "All quantities over time and units, with the exact value under the pointer. The line with ✓ above tells how far every number was compared with PyTorch's own.",
    },
  ];
  let k = -1, opened = [];

  const mark = (element) => {
    for (const each of document.querySelectorAll(".toured")) each.classList.remove("toured");
    if (!element) return;
    element.classList.add("toured");
    const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    element.scrollIntoView({ block: "center", inline: "center", behavior: calm ? "auto" : "smooth" });
  };
  const show = (to) => {
    k = to;
    const stop = stops[k];
    if (stop.before) {
      const closed = [...document.querySelectorAll("details:not([open])")];
      stop.before();
      opened.push(...closed.filter((each) => each.open));
    }
    box.hidden = false;
    $("tour-title").textContent = `${k + 1} of ${stops.length}: ${stop.title}`;
    $("tour-text").textContent = shown(stop.at()) ? stop.text : `${stop.text} (Hidden on this page.)`;
    $("tour-back").disabled = k === 0;
    $("tour-next").textContent = k === stops.length - 1 ? "Done" : "Next";
    mark(shown(stop.at()) ? stop.at() : null);
    $("tour-title").focus({ preventScroll: true });
  };
  const close = () => {
    box.hidden = true;
    mark(null);
    opened.forEach((each) => { each.open = false; });
    opened = [];
    $("tour-start").focus();
  };
  $("tour-start").addEventListener("click", () => show(0));
  $("tour-back").addEventListener("click", () => show(k - 1));
  $("tour-next").addEventListener("click", () => (k === stops.length - 1 ? close() : show(k + 1)));
  $("tour-close").addEventListener("click", close);
  box.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
};
