/* A window is a column: windows are stacked one by one (chapter 12).
   Needs plane.js, convolution.js. */
(() => {
  "use strict";

  const { element, slider, button } = CNN;
  const NAMES = { H: ["lines H", 3, 5], f: ["filter f", 2, 3], s: ["stride s", 1, 2], d: ["dilation d", 1, 2] };

  function build(body, { kind, at }) {
    const { conv, sub } = CNN;
    const state = { H: 4, f: 3, s: 1, d: 1, kind, at, stacked: 99 };
    const controls = element("div", { class: "live-controls live-sizes" }, body);
    for (const [key, [name, min, max]] of Object.entries(NAMES)) {
      controls.append(slider(name, { min, max, value: state[key] }, (x) => {
        Object.assign(state, { [key]: x, stacked: 99 });
        again();
      }));
    }
    const buttons = element("div", { class: "live-controls" }, body);
    const next = button("Next window", () => stack(state.stacked + 1));
    buttons.append(next, button("Start again", () => stack(0)));
    const planes = element("div", { class: "live-planes" }, body);
    const image = part("The image: choose a pixel", (r, c) => pick("pixel", r * state.H + c));
    const matrix = part("V, a column for each window; below it the outputs. Choose a column",
      (r, c) => pick("window", c - 1));
    const place = CNN.said(body);

    function part(name, onchoose) {
      const one = element("div", {}, planes);
      element("p", { class: "live-caption" }, one).textContent = name;
      return CNN.plane(one, `${name}, by a tap or the arrow keys.`, onchoose);
    }

    function pick(what, which) {
      Object.assign(state, { kind: what, at: which });
      again();
    }

    function stack(count) {
      Object.assign(state, { stacked: count, kind: "window", at: Math.max(0, count - 1) });
      again();
    }

    const again = CNN.drawn(body, (width) => {
      const g = conv.geometry(state), L = g.h_out ** 2;
      state.stacked = Math.min(state.stacked, L);
      next.disabled = state.stacked >= L;
      if (!L) {
        image.draw({ rows: 1, columns: 1, side: 20, square: () => undefined });
        matrix.draw({ rows: 1, columns: 1, side: 20, square: () => undefined });
        return CNN.say(place, `The filter spans ${g.e + 1} lines, but there are only ${state.H}: not one window fits.`);
      }
      const pixel = state.kind === "pixel", most = pixel ? state.H ** 2 : L;
      state.at = Math.max(0, Math.min(most - 1, state.at));
      const numbers = Array.from({ length: state.H }, (_, h) => Array.from({ length: state.H }, (_, w) => h * state.H + w));
      const V = conv.columns(g, g, numbers), { at, stacked } = state;
      const chosen = new Set(pixel ? [at] : stacked ? V.map((line) => line[at]) : []);
      const side = (n) => Math.max(20, Math.min(34, Math.floor((width - 12) / n)));
      image.draw({
        rows: state.H, columns: state.H, side: side(9),
        at: pixel ? { row: Math.floor(at / state.H), column: at % state.H } : { row: 0, column: 0 },
        square: (r, c) => ({ text: numbers[r][c], look: chosen.has(numbers[r][c]) ? (pixel ? "orange chosen" : "blue") : "" }),
      });
      matrix.draw({
        rows: V.length + 1, columns: L + 1, side: side(L + 1), height: 26, at: { row: 0, column: pixel ? 1 : at + 1 },
        square(k, c) {
          const l = c - 1;
          if (k === V.length && c === 0) return undefined;
          if (c === 0) return { text: `W${sub(k)}`, look: pixel ? "bare" : "green soft" };
          if (l >= stacked) return { look: "rest" };
          const mine = !pixel && l === at;
          if (k === V.length) return { text: `z${sub(l)}`, look: mine ? "green" : "green soft" };
          return { text: V[k][l], look: mine ? "blue" : pixel && V[k][l] === at ? "orange" : "" };
        },
      });
      CNN.say(place, ...(pixel ? copied(V, at, stacked) : window_(g, V, at, stacked)));
      return undefined;
    });

    function window_(g, V, l, stacked) {
      if (!stacked) return ["V is empty. “Next window” writes the first window as a column, line by line."];
      const i = Math.floor(l / g.h_out), j = l % g.h_out;
      return [
        `Window l = i·wₒᵤₜ + j = ${i}·${g.h_out} + ${j} = ${l}: its pixels ${V.map((line) => line[l]).join(", ")} are column ${l} of V.`,
        `z${sub(l)} is the row of weights times this column.`,
      ];
    }

    function copied(V, pixel, stacked) {
      const places = V.flatMap((line, k) => line.flatMap((p, l) => (p === pixel && l < stacked ? [[k, l]] : [])));
      if (!places.length) return [`Pixel ${pixel} is in no column.`];
      const sum = places.map(([k, l]) => `dV${sub(k)}${k > 9 || l > 9 ? "," : ""}${sub(l)}`).join(" + ");
      return [
        `Pixel ${pixel} was copied to ${places.length} place${places.length > 1 ? "s" : ""}, each under another tap.`,
        `Going back it collects from all of them: dx̄ = ${sum}.`,
      ];
    }
  }

  CNN.live("fig-columns", "Stack the windows", (body) => build(body, { kind: "window", at: 1 }));
  CNN.live("fig-columns-overlap", "Where is a pixel copied to?", (body) => build(body, { kind: "pixel", at: 5 }));
})();
