/* The classes of pixels: those with the same remainder meet the same taps (chapter 25).
   Needs plane.js, convolution.js. */
(() => {
  "use strict";

  const { element, slider } = CNN;
  const LOOKS = ["blue", "orange", "green", "violet", "grey", "blue soft", "orange soft", "green soft", "violet soft"];
  const NAMES = { f: ["filter f", 1, 5], s: ["stride s", 1, 3], d: ["dilation d", 1, 3] };
  const H = 6;

  function build(body) {
    const { taps } = CNN.conv;
    const state = { f: 3, s: 2, d: 1, h: 0, w: 0 };
    const controls = element("div", { class: "live-controls live-sizes" }, body);
    for (const [key, [name, min, max]] of Object.entries(NAMES)) {
      controls.append(slider(name, { min, max, value: state[key] }, (x) => { state[key] = x; again(); }));
    }
    const planes = element("div", { class: "live-planes" }, body);
    const pixels = part(planes, "Pixels of the padded image: choose one", (h, w) => {
      Object.assign(state, { h, w });
      again();
    });
    const filters = element("div", { class: "live-planes live-filters" }, planes);
    const place = CNN.said(body);

    function part(parent, name, onchoose) {
      const one = element("div", {}, parent);
      element("p", { class: "live-caption" }, one).textContent = name;
      return CNN.plane(one, onchoose ? `${name}, by a tap or the arrow keys.` : name, onchoose);
    }

    const again = CNN.drawn(body, () => {
      const { f, s, d, h, w } = state, rho = h % s, kappa = w % s;
      const look = (a, b) => LOOKS[a * s + b];
      pixels.draw({
        rows: H, columns: H, side: 34, at: { row: h, column: w },
        square: (r, c) => ({
          text: r % s === rho && c % s === kappa ? "●" : "",
          look: `${look(r % s, c % s)} ${r === h && c === w ? "chosen" : ""}`,
        }),
      });
      filters.replaceChildren();
      for (let a = 0; a < s; a++) {
        for (let b = 0; b < s; b++) {
          const rows = taps(f, s, d, a), columns = taps(f, s, d, b), mine = a === rho && b === kappa;
          part(filters, `ρ = ${a}, κ = ${b}${mine ? " ●" : ""}`).draw({
            rows: f, columns: f, side: 24,
            square: (r, c) => {
              const met = rows.includes(r) && columns.includes(c);
              return { text: met ? r * f + c : "", look: met ? look(a, b) : "" };
            },
          });
        }
      }
      const rows = taps(f, s, d, rho), columns = taps(f, s, d, kappa), all = rows.length * columns.length;
      const list = (some) => (some.length ? some.join(", ") : "none");
      CNN.say(place,
        `Row ${h} = ${s}·${Math.floor(h / s)} + ${rho}, so ρ = ${rho}; taps a for which ${s} divides ${d}·a − ${rho}: ${list(rows)}.`,
        `Column ${w} = ${s}·${Math.floor(w / s)} + ${kappa}, so κ = ${kappa}; taps c for which ${s} divides ${d}·c − ${kappa}: ${list(columns)}.`,
        all ? `The pixels marked ● meet ${all} of the ${f * f} taps.` : "The pixels marked ● meet no tap: their gradient is zero.");
    });
  }

  CNN.live("fig-kernel-classes", "Which taps does a pixel meet?", build);
})();
