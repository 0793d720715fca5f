/* Backpropagation, one click at a time: the network with one number on each wire (chapter 6).
   Needs plane.js. */
(() => {
  "use strict";

  const { element, svg, slider, button, number } = CNN;

  /**
   * The five numbers that go in.
   * @typedef {{q: number, w: number, b: number, u: number, v: number}} Inputs
   */

  /** Compute every value, from the input to the cost. @param {Inputs} inputs */
  function forward({ q, w, b, u, v }) {
    const p = w * q, z = p + b, q1 = Math.max(0, z);
    const z_u = u * q1, z_v = v * q1;
    const J_u = (z_u - 7) ** 2 / 2, J_v = z_v ** 2 / 2;
    return { q, w, b, u, v, p, z, q1, q_u: q1, q_v: q1, z_u, z_v, J_u, J_v, J: J_u + J_v };
  }

  /** Compute the derivative of J with respect to every value, from the cost to the input. */
  function backward({ q, w, u, v, z, q1, z_u, z_v }) {
    const dz_u = z_u - 7, dz_v = z_v;
    const dq_u = dz_u * u, dq_v = dz_v * v;
    const dq1 = dq_u + dq_v, dz = z > 0 ? dq1 : 0;
    return {
      J: 1, J_u: 1, J_v: 1, z_u: dz_u, z_v: dz_v, u: dz_u * q1, v: dz_v * q1,
      q_u: dq_u, q_v: dq_v, q1: dq1, z: dz, p: dz, b: dz, w: dz * q, q: dz * w,
    };
  }

  const n = (x) => number(x, 6);
  const f = (x) => (x < 0 ? `(${n(x)})` : n(x)); // a factor, or a term after the first

  // What each click shows: forwards the values, backwards the gradients.
  const STEPS = [
    [[], [], () => "Ready: the input and the weights are known."],
    [["p"], [], (x) => `A product: w·q = ${f(x.w)}·${f(x.q)} = ${n(x.p)}`],
    [["z"], [], (x) => `A sum: ${n(x.p)} + ${f(x.b)} = ${n(x.z)}`],
    [["q1"], [], (x) => `The ReLU: max(0, ${n(x.z)}) = ${n(x.q1)}`],
    [["q_u", "q_v"], [], (x) => `The fork: ${n(x.q1)} goes to both branches.`],
    [["z_u"], [], (x) => `The upper branch: u times ${n(x.q1)} is ${f(x.u)}·${n(x.q1)} = ${n(x.z_u)}`],
    [["z_v"], [], (x) => `The lower branch: v times ${n(x.q1)} is ${f(x.v)}·${n(x.q1)} = ${n(x.z_v)}`],
    [["J_u", "J_v"], [], (x) => `What they cost: ½(${n(x.z_u)} − 7)² = ${n(x.J_u)} and ½·${f(x.z_v)}² = ${n(x.J_v)}`],
    [["J"], [], (x) => `The cost: J = ${n(x.J_u)} + ${n(x.J_v)} = ${n(x.J)}`],
    [[], ["J"], () => "Now back. J grows as fast as itself: 1"],
    [[], ["J_u", "J_v"], () => "A sum hands the same to each of its terms: 1 and 1"],
    [[], ["z_u", "z_v"], (x, d) => `The squares: 1·(${n(x.z_u)} − 7) = ${n(d.z_u)} and 1·${f(x.z_v)} = ${n(d.z_v)}`],
    [[], ["q_u", "u"], (x, d) => `A product swaps: ${f(d.z_u)}·${f(x.u)} = ${n(d.q_u)} to the fork, ${f(d.z_u)}·${f(x.q1)} = ${n(d.u)} to u`],
    [[], ["q_v", "v"], (x, d) => `A product swaps: ${f(d.z_v)}·${f(x.v)} = ${n(d.q_v)} to the fork, ${f(d.z_v)}·${f(x.q1)} = ${n(d.v)} to v`],
    [[], ["q1"], (x, d) => `The fork adds: ${n(d.q_u)} + ${f(d.q_v)} = ${n(d.q1)}`],
    [[], ["z"], (x, d) => (x.z > 0 ? `The ReLU let ${n(x.z)} pass, so it lets ${n(d.q1)} pass.` : `The ReLU let nothing pass, so it lets nothing back: 0`)],
    [[], ["p", "b"], (x, d) => `The sum hands ${n(d.z)} to the product and ${n(d.z)} to b.`],
    [[], ["w", "q"], (x, d) => `The product swaps: ${f(d.p)}·${f(x.q)} = ${n(d.w)} to w, ${f(d.p)}·${f(x.w)} = ${n(d.q)} to q. Done.`],
  ];

  // The picture, in units: wires from left to right, weights above and below, nodes on top.
  const WIRES = [
    ["q", 0, 0, 1.5, 0], ["p", 1.5, 0, 3, 0], ["z", 3, 0, 4.6, 0], ["q1", 4.6, 0, 5.9, 0],
    ["q_u", 5.9, 0, 7.2, 1.3], ["q_v", 5.9, 0, 7.2, -1.3], ["z_u", 7.2, 1.3, 9.1, 1.3],
    ["z_v", 7.2, -1.3, 9.1, -1.3], ["J_u", 9.1, 1.3, 11, 0], ["J_v", 9.1, -1.3, 11, 0],
    ["J", 11, 0, 12.4, 0],
  ];
  const WEIGHTS = [["w", 1.5, 0, -1.5], ["b", 3, 0, -2.1], ["u", 7.2, 1.3, 2.6], ["v", 7.2, -1.3, -2.6]];
  const NODES = [
    ["×", 1.5, 0], ["+", 3, 0], ["ReLU", 4.6, 0], ["×", 7.2, 1.3], ["×", 7.2, -1.3],
    ["½( −7)²", 9.1, 1.3], ["½( )²", 9.1, -1.3], ["+", 11, 0],
  ];

  function build(body) {
    const inputs = { q: 3, w: 2, b: -4, u: 4, v: -1 };
    let step = 0;
    const picture = svg("svg", { role: "img" }, element("div", {}, body));
    const place = CNN.said(body);
    const buttons = element("div", { class: "live-controls" }, body);
    const back = button("Back", () => go(step - 1)), next = button("Next", () => go(step + 1));
    buttons.append(next, back, button("All", () => go(STEPS.length - 1)), button("Start again", () => go(0)));
    const sliders = element("div", { class: "live-controls live-inputs" }, body);
    for (const [key, value] of Object.entries(inputs)) {
      const name = key === "q" ? "input q" : `weight ${key}`;
      sliders.append(slider(name, { min: -6, max: 6, value }, (x) => { inputs[key] = x; again(); }));
    }

    /** @param {number} to */
    function go(to) {
      step = Math.max(0, Math.min(STEPS.length - 1, to));
      again();
    }

    const again = CNN.drawn(body, (width) => {
      const x = forward(inputs), d = backward(x);
      const shown = STEPS.slice(0, step + 1);
      const known = new Set(["q", "w", "b", "u", "v", ...shown.flatMap(([keys]) => keys)]);
      const blamed = new Set(shown.flatMap(([, keys]) => keys));
      const [values, gradients, tell] = STEPS[step];
      draw(width, x, d, known, blamed, new Set([...values, ...gradients]));
      back.disabled = step === 0;
      next.disabled = step === STEPS.length - 1;
      CNN.say(place, tell(x, d), ...(step === STEPS.length - 1 ? [tested(x, d)] : []));
      const done = [...blamed].map((key) => `d${key.replace("_", "")} = ${n(d[key])}`);
      const there = [...known].map((key) => `${key.replace("_", "")} = ${n(x[key])}`);
      picture.setAttribute("aria-label", `The network. Values: ${there.join(", ")}. Gradients: ${done.join(", ") || "none yet"}.`);
    });

    /** Try a gradient: what does a little more of w do to J? */
    function tested(x, d) {
      const J = forward({ ...x, w: x.w + 0.001 }).J;
      return `Try it: with w = ${n(x.w + 0.001)}, J is ${number(J, 7)}; it grows by ` +
        `${number((J - x.J) / 0.001, 4)} times as much as w, and dw = ${n(d.w)}.`;
    }

    function draw(width, x, d, known, blamed, fresh) {
      const flat = width >= 560, along = flat ? width / 13.6 : 44, across = flat ? 40 : width / 7.4;
      const at = (s, t) => (flat ? [(s + 0.6) * along, (3.3 - t) * across] : [(3.7 - t) * across, (s + 0.7) * along]);
      const high = flat ? 6.6 * across : 13.9 * along;
      for (const [key, value] of Object.entries({ width, height: high, viewBox: `0 0 ${width} ${high}` })) {
        picture.setAttribute(key, value);
      }
      picture.replaceChildren();
      const line = ([x1, y1], [x2, y2]) => svg("line", { x1, y1, x2, y2, class: "wire" }, picture);
      function text(words, px, py, look, anchor = "middle") {
        const made = svg("text", { x: px, y: py, "text-anchor": anchor, "dominant-baseline": "central", class: look, "font-size": 15 }, picture);
        made.textContent = words;
      }
      /** The value on one side, the gradient on the other. */
      function pair(key, [px, py], [nx, ny], gap = 13) {
        const anchor = Math.abs(nx) < 0.75 ? "middle" : undefined;
        const ends = nx > 0 ? ["start", "end"] : ["end", "start"];
        const bold = fresh.has(key) ? " fresh" : "";
        if (known.has(key)) text(n(x[key]), px + gap * nx, py + gap * ny, `value${blamed.has(key) ? "" : bold}`, anchor || ends[0]);
        if (blamed.has(key)) text(n(d[key]), px - gap * nx, py - gap * ny, `gradient${bold}`, anchor || ends[1]);
      }
      for (const [key, s0, t0, s1, t1] of WIRES) {
        const a = at(s0, t0), b = at(s1, t1), length = Math.hypot(b[0] - a[0], b[1] - a[1]);
        line(a, b);
        const side = flat ? 1 : -1; // values above the wires, or to their left
        pair(key, [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], [side * (b[1] - a[1]) / length, -side * (b[0] - a[0]) / length]);
      }
      for (const [key, s, t, end] of WEIGHTS) {
        const b = at(s, end), beyond = at(s, end + 0.42 * Math.sign(end - t));
        line(at(s, t), b);
        pair(key, b, flat ? [-1, 0] : [0, -1], flat ? 7 : 13);
        text(key, ...beyond, "name");
      }
      for (const [name, s, t] of NODES) {
        const [px, py] = at(s, t), wide = 12 + 8.5 * name.length;
        svg("rect", { x: px - wide / 2, y: py - 13, width: wide, height: 26, rx: 6, class: "node" }, picture);
        text(name, px, py, "node");
      }
      svg("circle", { cx: at(5.9, 0)[0], cy: at(5.9, 0)[1], r: 5, class: "dot" }, picture);
      text("q", ...at(-0.35, 0), "name");
      text("J", ...at(12.75, 0), "name");
    }
  }

  window.CNN.scalar = { forward, backward };
  CNN.live("fig-backprop-scalar", "Forwards and backwards, step by step", build);
})();
