/* A derivative's step: truncation against rounding (chapter 3).
   Needs plane.js. */
(() => {
  "use strict";

  const { element, svg, slider, number } = CNN;
  const EPS = 2 ** -52;

  const f = (theta) => Math.log(1 + Math.exp(theta));
  const slope = (theta) => 1 / (1 + Math.exp(-theta));

  /** The three rules, each from θ and h to an estimate of f′(θ). */
  const rules = {
    forward: (theta, h) => (f(theta + h) - f(theta)) / h,
    central: (theta, h) => (f(theta + h) - f(theta - h)) / (2 * h),
    complex: (theta, h) => { // the imaginary part of log(1 + e^(θ + ih))
      const e = Math.exp(theta);
      return Math.atan2(e * Math.sin(h), 1 + e * Math.cos(h)) / h;
    },
  };

  /** The worst relative error of 50 points between 0.5 and 1.5. */
  function worst(rule, h) {
    let most = 0;
    for (let k = 0; k < 50; k++) {
      const theta = 0.5 + k / 49;
      most = Math.max(most, Math.abs(rules[rule](theta, h) / slope(theta) - 1));
    }
    return most;
  }

  /** What the formulas of the chapter expect of the error at θ: [truncation, rounding]. */
  function expected(rule, theta, h) {
    const p = slope(theta), second = p * (1 - p), third = second * (1 - 2 * p);
    if (rule === "forward") return [h / 2 * second, 2 * EPS * f(theta) / h];
    return [h * h / 6 * Math.abs(third), rule === "central" ? EPS * f(theta) / h : 0];
  }

  const RULES = {
    forward: ["forward", "orange", "(f(θ + h) − f(θ)) / h"],
    central: ["central", "blue", "(f(θ + h) − f(θ − h)) / 2h"],
    complex: ["complex step", "green", "Im f(θ + ih) / h"],
  };
  const LOW = -17, HIGH = 1, THETA = 1;

  function build(body) {
    let rule = "central", power = -2;
    const curves = {};
    for (const key of Object.keys(RULES)) {
      curves[key] = Array.from({ length: 73 }, (_, k) => [-18 + k / 4, worst(key, 10 ** (-18 + k / 4))]);
    }
    const names = Object.fromEntries(Object.entries(RULES).map(([key, [name]]) => [key, name]));
    body.append(CNN.choice("Difference", names, rule, (key) => { rule = key; again(); }));
    const range = { min: -18, max: 0, step: 0.25, value: power, show: (x) => number(10 ** x, 2) };
    const step = slider("step h", range, (x) => { power = x; again(); });
    step.classList.add("live-wide");
    body.append(step);
    const digits = element("div", { class: "live-digits" }, body);
    const picture = svg("svg", { role: "img" }, element("div", {}, body));
    element("p", { class: "live-caption" }, body).textContent = "Dot: θ = 1. Lines: the worst of " +
      "50 points from 0.5 to 1.5. Dashed: what the formulas expect of truncation and of rounding.";
    const place = CNN.said(body);
    let size = { width: 1, height: 1 };
    const left = 38, bottom = 34;
    const px = (x) => left + (x + 18) / 18 * (size.width - left - 10);
    const py = (error) => {
      const y = Math.max(LOW, Math.min(HIGH, Math.log10(Math.max(error, 1e-300))));
      return (HIGH - y) / (HIGH - LOW) * (size.height - bottom - 8) + 8;
    };

    const again = CNN.drawn(body, (room) => {
      size = { width: room - 2, height: Math.min(300, Math.max(220, room * 0.45)) };
      const h = 10 ** power, value = rules[rule](THETA, h), error = Math.abs(value / slope(THETA) - 1);
      const [cut, round] = expected(rule, THETA, h).map((part) => part / slope(THETA));
      writeDigits(h);
      draw(error);
      const larger = cut > round ? "Truncation rules: a smaller step helps." : "Rounding rules: a smaller step makes it worse.";
      const lines = [
        `${RULES[rule][2]} = ${value.toFixed(16)}; f′(θ) = ${slope(THETA).toFixed(16)}.`,
        `Beside f′(θ): truncation about ${number(cut, 2)}, rounding about ${number(round, 2)}; the error is ${error ? number(error, 2) : "0"}.`,
      ];
      lines.push(rule === "complex" ? "Nothing is subtracted, so nothing cancels." : larger);
      if (THETA + h === THETA && rule !== "complex") lines[2] = "θ + h is the same number as θ: nothing is left.";
      CNN.say(place, ...lines);
      picture.setAttribute("aria-label", `Error against step; the ${RULES[rule][0]} difference with h = ${number(h, 2)} is off by ${number(error, 2)}.`);
    });

    /** The two values that are subtracted, digit under digit; what they share is grey. */
    function writeDigits(h) {
      digits.replaceChildren();
      if (rule === "complex") return line("Im f(θ + ih)", "", (rules.complex(THETA, h) * h).toExponential(15));
      const pair = [f(THETA + h), f(rule === "central" ? THETA - h : THETA)].map((x) => x.toFixed(16));
      let same = 0;
      while (same < pair[0].length && pair[0][same] === pair[1][same]) same++;
      line("f(θ + h)", pair[0].slice(0, same), pair[0].slice(same));
      line(rule === "central" ? "f(θ − h)" : "f(θ)", pair[1].slice(0, same), pair[1].slice(same));
    }

    function line(name, same, rest) {
      const one = element("p", {}, digits);
      element("span", { class: "name" }, one).textContent = name;
      element("span", { class: "same" }, one).textContent = same;
      element("b", {}, one).textContent = rest;
    }

    function draw(error) {
      for (const [key, value] of Object.entries({ ...size, viewBox: `0 0 ${size.width} ${size.height}` })) {
        picture.setAttribute(key, value);
      }
      picture.replaceChildren();
      const put = (words, x, y, anchor, look = "") => {
        const at = { x, y, "text-anchor": anchor, "font-size": 12, class: look };
        svg("text", at, picture).textContent = words;
      };
      for (let x = -18; x <= 0; x += 3) {
        svg("line", { x1: px(x), x2: px(x), y1: 8, y2: size.height - bottom, class: "contour" }, picture);
        put(power10(x), px(x), size.height - bottom + 15, "middle");
      }
      for (let y = -16; y <= 0; y += 4) {
        svg("line", { x1: left, x2: size.width - 10, y1: py(10 ** y), y2: py(10 ** y), class: "contour" }, picture);
        put(power10(y), left - 5, py(10 ** y) + 4, "end");
      }
      put("step h", size.width - 10, size.height - 3, "end");
      put("relative error", 2, size.height - 3, "start");
      const p = slope(THETA);
      for (const part of [0, 1]) {
        const points = [-18, 0].map((x) => [x, expected(rule, THETA, 10 ** x)[part] / p]);
        if (points[0][1]) curve(clipped(points), `walk thin ${RULES[rule][1]}`);
      }
      for (const [key, [, look]] of Object.entries(RULES)) {
        curve(curves[key], `walk ${look} ${key === rule ? "main" : "quiet"}`);
      }
      svg("line", { x1: px(power), x2: px(power), y1: 8, y2: size.height - bottom, class: "wire" }, picture);
      svg("circle", { cx: px(power), cy: py(error), r: 6, class: `stop ${RULES[rule][1]}` }, picture);
    }

    /** Cut a straight line at the picture's floor and ceiling. */
    function clipped([[x0, e0], [x1, e1]]) {
      const y0 = Math.log10(e0), y1 = Math.log10(e1), tilt = (x1 - x0) / (y1 - y0);
      return [y0, y1].map((y) => Math.max(LOW, Math.min(HIGH, y))).map((y) => [x0 + (y - y0) * tilt, 10 ** y]);
    }

    function curve(points, look) {
      const d = points.map(([x, error], k) => `${k ? "L" : "M"}${px(x).toFixed(1)} ${py(error).toFixed(1)}`);
      svg("path", { d: d.join(""), class: look }, picture);
    }
  }

  /** Write a power of ten. */
  function power10(x) {
    return x === 0 ? "1" : `10${String(x).replace("-", "⁻").replace(/\d/g, (k) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[k])}`;
  }

  window.CNN.differences = { f, slope, rules, worst, expected };
  CNN.live("fig-step", "How small a step?", build);
})();
