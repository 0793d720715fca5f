/* The gradient explorer: who reads whom, and whose blame goes where (chapters 10 and 11).
   Needs plane.js, convolution.js. */
(() => {
  "use strict";

  const { element, slider } = CNN;
  const LIMITS = { H: [3, 10], f: [1, 4], s: [1, 4], d: [1, 3], before: [0, 2], after: [0, 2] };
  const NAMES = {
    H: "pixels H", f: "filter f", s: "stride s", d: "dilation d",
    before: "zeros before", after: "zeros after",
  };
  const X = [3, 1, 4, -2, 5, 2, -1, 6, 2, 3], W = [2, -1, 3, 1];
  const DZ = [1, -2, 3, 2, -1, 4, 1, 2, -3, 1, 2, 1, -1, 3];

  /** Make the six sliders; every move changes `state` and draws anew. */
  function controls(body, state, limits, draw) {
    const all = element("div", { class: "live-controls live-sizes" }, body);
    for (const [key, [min, max]] of Object.entries({ ...LIMITS, ...limits })) {
      const range = { min, max, value: state[key] };
      all.append(slider(NAMES[key], range, (value) => { state[key] = value; draw(); }));
    }
  }

  /** Say how many outputs there are, with the numbers filled in. */
  function counted(g) {
    const p = g.before + g.after;
    if (!g.h_out) {
      return `The filter spans d(f − 1) + 1 = ${g.e + 1} pixels, but there are only ${g.Hbar}: ` +
        "not one window fits";
    }
    return `hₒᵤₜ = ⌊(H + p − d(f − 1) − 1)/s⌋ + 1 = ⌊(${g.H} + ${p} − ${g.e} − 1)/${g.s}⌋ + 1 = ` +
      `${g.h_out}, remainder r = ${g.r}`;
  }

  /** Try every tap at a pixel: s·i + d·a = h, with numbers. One line a tap. */
  function tried(g, h) {
    const { sub } = CNN;
    return Array.from({ length: g.f }, (_, a) => {
      const left = h - g.d * a, i = left / g.s;
      const sum = `${g.s}·i + ${g.d}·${a} = ${h}`;
      if (left % g.s) return `${sum}: ${CNN.whole(left)} is no multiple of ${g.s}, no output`;
      if (i < 0 || i >= g.h_out) return `${sum}: i = ${CNN.whole(i)}, there is no such output`;
      return `${g.s}·${i} + ${g.d}·${a} = ${h}: output i = ${i} through W${sub(a)}`;
    });
  }

  /** Say what comes back to a pixel of a row. */
  function blame(g, h) {
    const { sub, whole, conv } = CNN, pairs = conv.meets(g, h);
    const name = `dx̄${sub(h)}`;
    if (!pairs.length) return `${name} = 0: no window reads pixel ${h}.`;
    const letters = pairs.map(({ i, a }) => `dz${sub(i)} W${sub(a)}`).join(" + ");
    const numbers = pairs.map(({ i, a }) => `${whole(DZ[i], true)}·${whole(W[a], true)}`).join(" + ");
    const sum = conv.backward(g, DZ, W)[h];
    const padded = h < g.before || h >= g.before + g.H;
    const end = padded ? ". It is a zero of the padding, so its blame is dropped." : "";
    return `${name} = ${letters} = ${numbers} = ${whole(sum)}${end}`;
  }

  /** Say what an output of a row is made of. */
  function made(g, i, xbar) {
    const { sub, whole, conv } = CNN, all = conv.reads(g, i);
    const letters = all.map(({ a, h }) => `W${sub(a)} x̄${sub(h)}`).join(" + ");
    const numbers = all.map(({ a, h }) => `${whole(W[a], true)}·${whole(xbar[h], true)}`).join(" + ");
    return `z${sub(i)} = ${letters} = ${numbers} = ${whole(conv.forward(g, xbar, W)[i])}`;
  }

  /**
   * The explorer of a row.
   * @param {HTMLElement} body
   * @param {object} start  the sizes, and what is chosen at first
   * @param {{gradient?: boolean, spread?: boolean}} shows
   */
  function row(body, start, { gradient = true, spread = false } = {}) {
    const { conv, sub, whole } = CNN;
    const state = { before: 0, after: 0, ...start };
    controls(body, state, {}, () => again());
    const count = element("p", { class: "live-caption" }, body);
    const table = CNN.plane(body, "A table of outputs and pixels. Left and right choose a pixel, " +
      "up and down an output.", choose);
    const second = spread ? element("p", { class: "live-caption" }, body) : null;
    if (second) {
      second.textContent = "The same as a cross-correlation: E is the blame, spread out by the stride " +
        "and framed by zeros, e before and e + r after (the r are dashed); below it the filter, turned; " +
        "below that what comes out, dx̄.";
    }
    const strip = spread ? CNN.plane(body, "The spread blame E, the turned filter and dx̄. Left and " +
      "right choose a pixel.", (_, column) => pick("pixel", column)) : null;
    const place = CNN.said(body);

    /** @param {"pixel" | "output"} kind @param {number} at */
    function pick(kind, at) {
      Object.assign(state, { kind, at });
      again();
    }

    function choose(r, c, by) {
      const kind = by === "row" || (by === "touch" && (c === 0 || (r > 0 && state.kind === "output")))
        ? "output" : "pixel";
      pick(kind, kind === "output" ? r - 1 : c - 1);
    }

    const again = CNN.drawn(body, (width) => {
      const g = conv.geometry(state);
      if (state.kind === "output" && !g.h_out) state.kind = "pixel";
      state.at = Math.max(0, Math.min((state.kind === "pixel" ? g.Hbar : g.h_out) - 1, state.at));
      count.textContent = `${counted(g)}. ${given(g)}`;
      drawTable(g, width);
      if (strip) drawStrip(g, width);
      CNN.say(place, ...lines(g));
    });

    /** The numbers that the sums below are made of. */
    function given(g) {
      const list = (numbers) => numbers.map((x) => whole(x)).join(", ");
      const filter = `W = ${list(W.slice(0, g.f))}`, outputs = DZ.slice(0, g.h_out);
      return `${filter}; x = ${list(X.slice(0, g.H))}${gradient ? `; dz = ${list(outputs)}` : ""}.`;
    }

    function padded(g) {
      return [...Array(g.before).fill(0), ...X.slice(0, g.H), ...Array(g.after).fill(0)];
    }

    function lines(g) {
      if (state.kind === "output") {
        const i = state.at, where = conv.reads(g, i).map(({ a, h }) => `${g.s}·${i} + ${g.d}·${a} = ${h}`);
        return [`Output ${i} reads s·i + d·a = h: ${where.join(", ")}.`, made(g, i, padded(g))];
      }
      const h = state.at, zero = h < g.before || h >= g.before + g.H;
      const pixel = g.before ? `Place ${h} of the padded row, ${zero ? "a zero" : `x${sub(h - g.before)}`},` : `Pixel ${h}`;
      const head = `${pixel} is read where s·i + d·a = h:`;
      if (gradient) return [head, ...tried(g, state.at), blame(g, state.at)];
      const end = conv.meets(g, state.at).length ? [] : [`No window reads pixel ${state.at}.`];
      return [head, ...tried(g, state.at), ...end];
    }

    /** Is this pair of an output and a pixel chosen? */
    function lit(i, h) {
      return (state.kind === "pixel" ? h : i) === state.at;
    }

    function look() {
      return state.kind === "pixel" ? "orange" : "blue";
    }

    function drawTable(g, width) {
      const A = conv.matrix(g, [1, 2, 3, 4]); // taps, counted from 1: 0 is no tap
      const read = new Set(A.flatMap((line) => line.flatMap((tap, h) => (tap ? [h] : []))));
      const side = Math.max(20, Math.min(46, Math.floor((width - 12) / (g.Hbar + 1))));
      const on = (i, h) => A[i][h] > 0 && lit(i, h);
      table.draw({
        rows: g.h_out + 1, columns: g.Hbar + 1, side, height: Math.max(28, Math.min(36, side)),
        at: state.kind === "pixel" ? { row: 0, column: state.at + 1 } : { row: state.at + 1, column: 0 },
        square(r, c) {
          const i = r - 1, h = c - 1;
          if (r === 0 && c === 0) return undefined;
          if (c === 0) {
            const its = state.kind === "output" ? i === state.at : A[i][state.at] > 0;
            const tone = its ? (state.kind === "output" ? "blue chosen" : "blue soft") : "";
            return { text: `z${sub(i)}`, look: tone };
          }
          if (r === 0) {
            const zero = h < g.before || h >= g.before + g.H;
            const its = state.kind === "pixel" ? h === state.at : A[state.at]?.[h] > 0;
            const tone = its ? (state.kind === "pixel" ? "orange chosen" : "orange soft") : zero ? "violet soft" : "";
            return { text: zero ? "0" : `x${sub(h - g.before)}`, look: `${tone} ${read.has(h) ? "" : "rest"}` };
          }
          if (on(i, h)) return { text: `W${sub(A[i][h] - 1)}`, look: look() };
          const text = A[i][h] ? `W${sub(A[i][h] - 1)}` : "";
          return { text, look: lit(i, h) ? `${look()} soft` : "" };
        },
      });
    }

    function drawStrip(g, width) {
      if (!g.h_out) return strip.draw({ rows: 1, columns: 1, side: 20, square: () => undefined });
      const length = g.Hbar + g.e, side = Math.max(20, Math.min(46, Math.floor((width - 12) / length)));
      const E = conv.framed(g, Array.from({ length: g.h_out }, (_, i) => i + 1));
      const F = conv.turned(g, [1, 2, 3, 4].slice(0, g.f));
      const dx = conv.backward(g, DZ, W), h = state.at, pixel = state.kind === "pixel";
      const mine = (p) => (pixel ? p === h : conv.reads(g, h).some((one) => one.h === p));
      const inside = (u) => u >= g.e && u < length - g.e - g.r;
      const first = (u) => {
        if (!E[u]) return { text: "0", look: inside(u) ? "" : u < length - g.r ? "grey soft" : "grey soft rest" };
        const met = pixel ? F[u - h] > 0 : E[u] - 1 === h;
        return { text: `dz${sub(E[u] - 1)}`, look: met ? "blue chosen" : "blue soft" };
      };
      const second = (u) => {
        const tap = pixel ? F[u - h] : undefined;
        if (tap === undefined) return undefined;
        return { text: tap ? `W${sub(tap - 1)}` : "0", look: tap ? (E[u] ? "green" : "green soft") : "" };
      };
      const third = (p) => (p < g.Hbar ? { text: whole(dx[p]), look: mine(p) ? "orange" : "" } : undefined);
      strip.draw({
        rows: 3, columns: length, side, height: 32, at: { row: 2, column: pixel ? h : 0 },
        square: (r, u) => [first, second, third][r](u),
      });
    }
  }

  /** The explorer of a plane: one channel, the same sizes along both axes. */
  function image(body, start) {
    const { conv, sub, whole } = CNN;
    const state = { before: 0, after: 0, ...start };
    const limits = { H: [3, 8], f: [1, 3], s: [1, 3], d: [1, 2], before: [0, 1], after: [0, 1] };
    controls(body, state, limits, () => again());
    const count = element("p", { class: "live-caption" }, body);
    const planes = element("div", { class: "live-planes" }, body);
    const place = CNN.said(body);
    const parts = {
      dz: part("dz, the outputs’ blame", (r, c) => pick("output", r, c)),
      F: part("F°, the filter turned"),
      E: part("E, dz spread out and framed"),
      dx: part("dx̄, the pixels’ blame", (r, c) => pick("pixel", r, c)),
    };

    function part(name, onchoose) {
      const whole_ = element("div", {}, planes);
      element("p", { class: "live-caption" }, whole_).textContent = name;
      return CNN.plane(whole_, onchoose ? `${name}. Arrow keys choose one.` : name, onchoose);
    }

    function pick(kind, h, w) {
      Object.assign(state, { kind, h, w });
      again();
    }

    const again = CNN.drawn(body, (width) => {
      const g = conv.geometry(state);
      count.textContent = counted(g);
      planes.hidden = !g.h_out;
      if (!g.h_out) return CNN.say(place, "");
      const n = state.kind === "pixel" ? g.Hbar : g.h_out;
      state.h = Math.min(n - 1, state.h);
      state.w = Math.min(n - 1, state.w);
      draw(g, Math.max(21, Math.min(34, Math.floor((width - 12) / (g.Hbar + g.e)))));
    });

    function draw(g, side) {
      const numbers = (n) => Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => i * n + j + 1));
      const filter = numbers(g.f), dz = numbers(g.h_out), { h, w } = state, pixel = state.kind === "pixel";
      const dx = conv.backward2d(g, g, dz, filter), E = conv.framed2d(g, g, dz);
      const F = conv.both(filter, (line) => conv.turned(g, line));
      const rows = pixel ? conv.meets(g, h) : conv.reads(g, h);
      const columns = pixel ? conv.meets(g, w) : conv.reads(g, w);
      const inRows = (key, k) => rows.some((one) => one[key] === k);
      const inColumns = (key, k) => columns.some((one) => one[key] === k);
      const at = { row: h, column: w };
      const show = (to, array, look, chosen = undefined) => to.draw({
        rows: array.length, columns: array.length, side, at: chosen,
        square: (r, c) => ({ text: whole(array[r][c]), look: look(r, c) }),
      });
      show(parts.dz, dz, (i, j) => {
        if (!pixel) return i === h && j === w ? "blue chosen" : "";
        return inRows("i", i) && inColumns("i", j) ? "blue" : "";
      }, pixel ? undefined : at);
      show(parts.F, F, (v, u) => {
        const a = (g.e - v) / g.d, c = (g.e - u) / g.d;
        if (!F[v][u]) return "";
        return !pixel || (inRows("a", a) && inColumns("a", c)) ? "green" : "green soft";
      });
      show(parts.E, E, (r, c) => {
        const window = pixel && r >= h && r <= h + g.e && c >= w && c <= w + g.e;
        const mine = pixel ? window : r === g.e + g.s * h && c === g.e + g.s * w;
        if (E[r][c]) return mine ? "blue" : "blue soft";
        const end = g.Hbar - g.r - 1, rest = Math.max(r, c) >= g.Hbar + g.e - g.r ? "rest" : "";
        const frame = r < g.e || c < g.e || r > end || c > end;
        return `${window ? "green soft" : frame ? "grey soft" : ""} ${rest}`;
      });
      show(parts.dx, dx, (r, c) => {
        if (pixel && r === h && c === w) return "orange chosen";
        if (!pixel && inRows("h", r) && inColumns("h", c)) return "orange";
        const zero = (k) => k < g.before || k >= g.before + g.H;
        const rest = conv.meets(g, r).length && conv.meets(g, c).length ? "" : "rest";
        return `${zero(r) || zero(c) ? "violet soft" : ""} ${rest}`;
      }, pixel ? at : undefined);
      CNN.say(place, ...(pixel ? received(g, rows, columns, dz, filter, dx) : sent(g, rows, columns)));
    }

    function condition(g, all) {
      return all.map(({ i, a, h }) => `${g.s}·${i} + ${g.d}·${a} = ${h}`).join(", ");
    }

    function received(g, rows, columns, dz, filter, dx) {
      const { h, w } = state, name = `dx̄${sub(h)}${h > 9 || w > 9 ? "," : ""}${sub(w)}`;
      const none = "no whole numbers that fit";
      const lines = [
        `Rows, s·i + d·a = h: ${condition(g, rows) || `${none} h = ${h}`}.`,
        `Columns, s·j + d·c = w: ${condition(g, columns) || `${none} w = ${w}`}.`,
      ];
      const terms = rows.flatMap((r) => columns.map((c) => [r, c]));
      if (!terms.length) return [...lines, `${name} = 0: no window reads this pixel.`];
      const letters = terms.map(([r, c]) => `dz${sub(r.i)}${sub(c.i)} W${sub(r.a)}${sub(c.a)}`);
      const values = terms.map(([r, c]) => `${dz[r.i][c.i]}·${filter[r.a][c.a]}`);
      return [...lines, `${name} = ${letters.join(" + ")}`, `= ${values.join(" + ")} = ${dx[h][w]}`];
    }

    function sent(g, rows, columns) {
      const { h, w } = state;
      return [
        `Output (${h}, ${w}) reads the rows s·i + d·a: ${condition(g, rows)},`,
        `and the columns s·j + d·c: ${condition(g, columns)}. Its blame goes back to these pixels.`,
      ];
    }
  }

  CNN.live("fig-correlation-remainder", "Which pixels does an output read?",
    (body) => row(body, { H: 8, f: 3, s: 2, d: 1, kind: "output", at: 1 }, { gradient: false }));
  CNN.live("fig-conv-blame", "Who reads whom?",
    (body) => row(body, { H: 8, f: 3, s: 2, d: 1, kind: "pixel", at: 4 }));
  CNN.live("fig-conv-backward-row", "One pixel, three ways",
    (body) => row(body, { H: 8, f: 3, s: 2, d: 1, kind: "pixel", at: 4 }, { spread: true }));
  CNN.live("fig-conv-backward", "From the outputs’ blame to the pixels’",
    (body) => image(body, { H: 6, f: 3, s: 2, d: 1, kind: "pixel", h: 2, w: 2 }));
})();
