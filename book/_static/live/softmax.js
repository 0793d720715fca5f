/* From leads to probabilities: three scores that one can move (chapter 2).
   Needs plane.js. */
(() => {
  "use strict";

  const { element, svg, slider, button, number } = CNN;
  const CLASSES = ["3", "8", "5"], LOOKS = ["blue", "orange", "green"];

  /**
   * Turn scores into leads over the weakest, odds against it, and probabilities.
   * @param {number[]} z
   */
  function softmax(z) {
    const most = Math.max(...z), least = Math.min(...z);
    const raised = z.map((score) => Math.exp(score - most));
    const sum = raised.reduce((a, b) => a + b, 0);
    const leads = z.map((score) => score - least);
    return { leads, odds: leads.map(Math.exp), P: raised.map((e) => e / sum) };
  }

  function build(body) {
    const z = [2, 1, 0];
    const sliders = CLASSES.map((name, k) => slider(`score of the ${name}`,
      { min: -10, max: 10, step: 0.1, value: z[k], show: (x) => number(x) }, (x) => { z[k] = x; again(); }));
    const controls = element("div", { class: "live-controls" }, body);
    controls.append(...sliders, button("Add 1 to all", () => shift(1)), button("Take 1 from all", () => shift(-1)));
    const picture = svg("svg", { role: "img" }, element("div", {}, body));
    const place = CNN.said(body);

    /** Add the same to all scores, as far as the sliders go. */
    function shift(by) {
      if (z.some((score) => Math.abs(score + by) > 10)) return;
      z.forEach((score, k) => { z[k] = Math.round(10 * (score + by)) / 10; sliders[k].set(z[k]); });
      again();
    }

    const again = CNN.drawn(body, (width) => {
      const { leads, odds, P } = softmax(z), height = 190, third = width / 3;
      for (const [key, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) {
        picture.setAttribute(key, value);
      }
      picture.replaceChildren();
      bars(0, third, "lead", leads, Math.max(...leads, 1e-9));
      bars(third, third, "odds", odds, Math.max(...odds));
      bars(2 * third, third, "probability", P, 1);
      const order = [0, 1, 2].sort((a, b) => z[b] - z[a]), [first, second] = order;
      const lead = z[first] - z[second];
      CNN.say(place, `The ${CLASSES[first]} leads the ${CLASSES[second]} by ${number(lead)}: the odds are ` +
        `e to the power ${number(lead)} = ${number(Math.exp(lead))} to 1, and ${number(P[first])} / ${number(P[second])} = ${number(P[first] / P[second])}.`,
        "Only differences count: add the same to all scores, and no bar moves.");
      picture.setAttribute("aria-label", CLASSES.map((name, k) => `The ${name}: lead ${number(leads[k])}, odds ${number(odds[k])}, probability ${number(P[k])}.`).join(" "));
    });

    function bars(x, wide, title, values, most) {
      const base = 155, room = 115, gap = wide / 3.4;
      values.forEach((value, k) => {
        const middle = x + gap * (k + 0.7), high = Math.max(1, value / most * room);
        svg("rect", { x: middle - gap * 0.36, y: base - high, width: gap * 0.72, height: high, class: `bar ${LOOKS[k]}` }, picture);
        put(number(value, Math.abs(value) >= 100 ? 2 : 3), middle, base - high - 6);
        put(CLASSES[k], middle, base + 16);
      });
      put(title, x + gap * 1.7, base + 32, "name");
    }

    function put(words, x, y, look = "") {
      svg("text", { x, y, "text-anchor": "middle", "font-size": 12, class: look }, picture).textContent = words;
    }
  }

  window.CNN.softmax = softmax;
  CNN.live("fig-linear-softmax", "From leads to probabilities", build);
})();
