// One step after the other, in the order in which the direction reads.
rnnscope.play = (store) => {
  const { record, state } = store;
  const button = document.getElementById("play");
  const reduced = window.matchMedia("(prefers-reduced-motion: reduce)");
  const PACE = 900, CALM = 1800; // milliseconds a step; the second where less motion is asked for
  let timer = null, own = false;

  const ahead = () => (state.direction === "reverse" ? state.time - 1 : state.time + 1);
  const first = () => (state.direction === "reverse" ? record.lengths[state.row] - 1 : 0);
  const go = (time) => { own = true; store.set({ time }); own = false; };
  const show = () => {
    const on = timer !== null;
    button.textContent = on ? "❚❚" : "▶";
    button.setAttribute("aria-label", on ? "Pause" : "Play the steps");
    button.title = on ? "Pause" : "Play: one step after the other";
    document.body.classList.toggle("playing", on);
    // nothing is read aloud at every step
    for (const each of document.querySelectorAll("#arithmetic, #prediction")) each.setAttribute("aria-live", on ? "off" : "polite");
  };
  const stop = () => { if (timer !== null) { window.clearInterval(timer); timer = null; show(); } };
  const tick = () => {
    if (record.valid(state.row, ahead()) && ahead() >= 0) go(ahead());
    if (!record.valid(state.row, ahead()) || ahead() < 0) stop();
  };
  const start = () => {
    if (!record.valid(state.row, ahead()) || ahead() < 0) go(first());
    if (record.lengths[state.row] < 2) return;
    timer = window.setInterval(tick, reduced.matches ? CALM : PACE);
    show();
  };
  button.addEventListener("click", () => (timer === null ? start() : stop()));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
  document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); });
  // whoever chooses a step, a row or a direction takes over
  store.listen((changed) => { if (!own && ["time", "row", "text", "direction"].some((key) => changed.has(key))) stop(); });
  show();
};
