/* The valley: four optimisers walk from where one clicks (chapter 8).
   Needs plane.js. */
(() => {
  "use strict";

  const { element, svg, slider, button, number } = CNN;
  const LAMBDA = [1, 40], STEPS = 60, START = [-10, 0.6];

  /**
   * Take one step in place. t counts from 1; the memories m and v begin at zero.
   * @param {string} rule
   * @param {{theta: number[], m: number[], v: number[]}} state
   * @param {number[]} g
   * @param {{gamma: number, mu: number, beta1: number, beta2: number, eps: number}} set
   */
  function step(rule, { theta, m, v }, g, { gamma, mu, beta1, beta2, eps }, t) {
    for (let k = 0; k < theta.length; k++) {
      if (rule === "descent") {
        theta[k] -= gamma * g[k];
      } else if (rule === "momentum") {
        v[k] = mu * v[k] + g[k];
        theta[k] -= gamma * v[k];
      } else if (rule === "rmsprop") {
        v[k] = beta2 * v[k] + (1 - beta2) * (g[k] * g[k]);
        theta[k] -= gamma * (g[k] / (Math.sqrt(v[k]) + eps));
      } else {
        m[k] = beta1 * m[k] + (1 - beta1) * g[k];
        v[k] = beta2 * v[k] + (1 - beta2) * (g[k] * g[k]);
        theta[k] -= gamma / (1 - beta1 ** t) * (m[k] / (Math.sqrt(v[k] / (1 - beta2 ** t)) + eps));
      }
    }
  }

  /** The gradient of the valley, turned by an angle: Q λ Qᵀ θ. */
  function gradient(theta, lambda, angle) {
    const c = Math.cos(angle), s = Math.sin(angle);
    const a = lambda[0] * (c * theta[0] + s * theta[1]), b = lambda[1] * (c * theta[1] - s * theta[0]);
    return [c * a - s * b, s * a + c * b];
  }

  /**
   * Walk: the start and all steps, until a number is no longer finite.
   * @param {string} rule
   * @param {object} set
   * @param {number[]} start
   */
  function walk(rule, set, start, steps = STEPS, lambda = LAMBDA, angle = 0) {
    const state = { theta: [...start], m: [0, 0], v: [0, 0] }, path = [[...start]];
    for (let t = 1; t <= steps && state.theta.every(Number.isFinite); t++) {
      step(rule, state, gradient(state.theta, lambda, angle), set, t);
      path.push([...state.theta]);
    }
    return path;
  }

  /** The factor per step of one direction: the larger modulus of the roots of r² − (1 + μ − γλ) r + μ. */
  function factor(gamma, lambda, mu) {
    const half = (1 + mu - gamma * lambda) / 2, under = half * half - mu;
    return under < 0 ? Math.sqrt(mu) : Math.abs(half) + Math.sqrt(under);
  }

  const RULES = {
    descent: { name: "Descent", look: "blue", gamma: 2 / 41, asks: ["gamma"] },
    momentum: { name: "Momentum", look: "green", gamma: 0.075, asks: ["gamma", "mu"] },
    rmsprop: { name: "RMSProp", look: "teal", gamma: 0.5, asks: ["gamma", "beta2"] },
    adam: { name: "Adam", look: "violet", gamma: 0.5, asks: ["gamma", "beta1", "beta2"] },
  };
  const ASKS = {
    gamma: ["rate γ", { min: -3, max: 0.5, step: 0.01, show: (x) => number(10 ** x, 2) }],
    mu: ["momentum μ", { min: 0, max: 0.99, step: 0.01 }],
    beta1: ["β₁", { min: 0, max: 0.99, step: 0.01 }],
    beta2: ["β₂", { min: 0, max: 0.999, step: 0.001 }],
  };

  /**
   * @param {HTMLElement} body
   * @param {{rule: string, turned?: boolean}} options  the first rule; may the valley be turned?
   */
  function build(body, { rule: first, turned = false }) {
    const sets = {};
    for (const key of Object.keys(RULES)) {
      sets[key] = { gamma: RULES[key].gamma, mu: 0.53, beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    }
    sets.rmsprop.beta2 = 0.9;
    const range = turned ? { x: [-11, 11], y: [-11, 11] } : { x: [-11, 4], y: [-2.6, 2.6] };
    let rule = first, start = [...START], angle = 0, shown = STEPS, all = false, timer = 0;

    const names = Object.fromEntries(Object.entries(RULES).map(([key, { name }]) => [key, name]));
    body.append(CNN.choice("Optimiser", names, rule, (key) => { rule = key; ask(); whole(); }));
    const picture = svg("svg", { role: "application", tabindex: 0, class: "valley", "aria-label":
      "The valley from above. Click where to start, or move the start with the arrow keys." }, element("div", {}, body));
    const place = CNN.said(body);
    const settings = element("div", { class: "live-controls live-sizes" }, body);
    const buttons = element("div", { class: "live-controls" }, body);
    const compare = button("Show all four", () => {
      all = !all;
      compare.setAttribute("aria-pressed", all);
      again();
    });
    compare.setAttribute("aria-pressed", false);
    buttons.append(button("Walk", run), button("One step", () => stop((shown % STEPS) + 1)), compare,
      button("Start again", () => { start = from(); stop(0); }));

    const from = () => {
      const c = Math.cos(angle), s = Math.sin(angle);
      return [c * START[0] - s * START[1], s * START[0] + c * START[1]];
    };

    /** Stop walking, at this step. */
    function stop(at) {
      clearTimeout(timer);
      shown = at;
      again();
    }

    const whole = () => stop(STEPS);

    function run() {
      stop(0);
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) return whole();
      const next = () => {
        stop(shown + 1);
        if (shown < STEPS) timer = setTimeout(next, 60);
      };
      timer = setTimeout(next, 60);
      return undefined;
    }

    /** Show the sliders of this rule. */
    function ask() {
      settings.replaceChildren(...RULES[rule].asks.map((key) => {
        const [label, limits] = ASKS[key], now = sets[rule][key];
        const value = key === "gamma" ? Math.log10(now) : now;
        return slider(label, { ...limits, value }, (x) => {
          sets[rule][key] = key === "gamma" ? 10 ** x : x;
          whole();
        });
      }));
      if (!turned) return;
      const value = Math.round(angle * 180 / Math.PI);
      settings.append(slider("turned by", { min: 0, max: 45, value, show: (x) => `${x}°` }, (x) => {
        angle = x * Math.PI / 180;
        start = from();
        whole();
      }));
    }

    let scale = { x: 1, y: 1, width: 1, height: 1 };
    const px = ([x, y]) => [(x - range.x[0]) * scale.x, (range.y[1] - y) * scale.y];
    const inside = ([x, y]) => x >= range.x[0] && x <= range.x[1] && y >= range.y[0] && y <= range.y[1];
    ask();

    const again = CNN.drawn(body, (room) => {
      const width = turned ? Math.min(room - 4, 400) : room - 4, height = turned ? width : Math.min(300, Math.max(200, width * 0.4));
      scale = { x: width / (range.x[1] - range.x[0]), y: height / (range.y[1] - range.y[0]), width, height };
      for (const [key, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) {
        picture.setAttribute(key, value);
      }
      picture.replaceChildren();
      contours();
      if (all) for (const key of Object.keys(RULES)) if (key !== rule) path(key, false);
      const lost = path(rule, true);
      picture.classList.toggle("lost", lost > 0);
      CNN.say(place, ...told(lost));
    });

    function contours() {
      const [cx, cy] = px([0, 0]);
      for (let k = 0; k < 7; k++) {
        const J = 130 ** (k / 6), [rx, ry] = LAMBDA.map((lambda) => Math.sqrt(2 * J / lambda));
        const turn = `rotate(${-angle * 180 / Math.PI} ${cx} ${cy})`;
        svg("ellipse", { cx, cy, rx: rx * scale.x, ry: ry * scale.y, transform: turn, class: "contour" }, picture);
      }
      svg("path", { d: `M${cx - 7} ${cy}h14M${cx} ${cy - 7}v14`, class: "bottom" }, picture);
    }

    /** Draw a walk as far as it is shown; return the step at which it left the picture, or 0. */
    function path(key, main) {
      const points = walk(key, sets[key], start, STEPS, LAMBDA, angle).slice(0, shown + 1);
      const out = points.findIndex((p) => !p.every(Number.isFinite) || !inside(p));
      const far = points.filter((p) => p.every((x) => Math.abs(x) < 1e4));
      const d = far.map((p, k) => `${k ? "L" : "M"}${px(p).map((x) => x.toFixed(1)).join(" ")}`).join("");
      svg("path", { d, class: `walk ${RULES[key].look} ${main ? "" : "thin"}` }, picture);
      if (!main) return 0;
      for (const p of far.filter(inside)) {
        const [cx, cy] = px(p);
        svg("circle", { cx, cy, r: p === far[0] ? 6 : 3, class: `stop ${RULES[key].look}` }, picture);
      }
      return out > 0 ? out : 0;
    }

    function told(lost) {
      const set = sets[rule], points = walk(rule, set, start, STEPS, LAMBDA, angle).slice(0, shown + 1);
      const end = points[points.length - 1], far = Math.hypot(...end);
      const lines = [`After ${shown} steps: ${number(far)} from the bottom.`];
      if (rule === "descent" || rule === "momentum") lines.push(rates(set, lost));
      if (lost) {
        const back = inside(end) ? "and comes back" : "and is outside";
        lines.unshift(far > 100 ? `It explodes: at step ${lost} the path leaves the picture.` : `At step ${lost} the path leaves the picture ${back}.`);
      }
      return lines;
    }

    /** What the formulas say about this rate. */
    function rates(set) {
      const mu = rule === "momentum" ? set.mu : 0, limit = 2 * (1 + mu) / LAMBDA[1];
      const [flat, steep] = LAMBDA.map((lambda) => (mu ? factor(set.gamma, lambda, mu) : 1 - set.gamma * lambda));
      const what = mu ? "Factors per step" : "Factors per step, 1 − γλ";
      const sign = set.gamma < limit ? "below" : "above";
      return `${what}: ${number(flat)} along, ${number(steep)} across. γ is ${sign} the limit ` +
        `${mu ? "2(1 + μ)/λₘₐₓ" : "2/λₘₐₓ"} = ${number(limit)}.`;
    }

    function touch(event) {
      const frame = picture.getBoundingClientRect();
      const across = (event.clientX - frame.left) / frame.width, down = (event.clientY - frame.top) / frame.height;
      const between = ([low, high], share) => low + Math.max(0, Math.min(1, share)) * (high - low);
      start = [between(range.x, across), between(range.y, 1 - down)];
      whole();
    }

    picture.addEventListener("pointerdown", (event) => {
      picture.setPointerCapture(event.pointerId);
      touch(event);
    });
    picture.addEventListener("pointermove", (event) => {
      if (picture.hasPointerCapture(event.pointerId)) touch(event);
    });
    picture.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 0.2], ArrowDown: [0, -0.2] }[event.key];
      if (!move) return;
      event.preventDefault();
      event.stopPropagation();
      const moved = [start[0] + move[0], start[1] + move[1]];
      if (inside(moved)) start = moved;
      whole();
    });
  }

  window.CNN.optimizers = { walk, factor, gradient };
  CNN.live("fig-valley", "Walk down the valley", (body) => build(body, { rule: "descent" }));
  CNN.live("fig-adam-valley", "Adam, and a valley that turns", (body) => build(body, { rule: "adam", turned: true }));
})();
