/* Chapter 22: a drawing on its way through the network. Needs network.js, drawing.js. */
(() => {
  "use strict";

  const PANELS = { steps: "The steps", maps: "Every layer's maps", conv: "One convolution" };

  const make = {
    steps: (place) => new Steps(place),
    maps: (place, net) => ({
      maps: new CNN.Maps(place, net, ({ kind }) => kind !== "Flatten"),
      show({ outputs }) { this.maps.show(outputs); },
    }),
    conv: (place, net) => new Convolution(place, net),
  };

  /** The box around the ink, drawn over the board. */
  class Box {
    constructor(parent) {
      this.frame = CNN.element("div", { class: "live-box" }, parent);
    }

    show(seen) {
      this.frame.hidden = !seen;
      if (!seen) return;
      const { top, left, shape: [h, w] } = seen.steps.box, side = seen.steps.ink.shape[0];
      const edges = { top, left, height: h, width: w };
      for (const [edge, n] of Object.entries(edges)) this.frame.style[edge] = `${(100 * n) / side}%`;
    }
  }

  /** Box, 20 pixels, 28 by 28 with its centre of mass. */
  class Steps {
    constructor(parent) {
      this.line = CNN.element("div", { class: "live-row" }, parent);
      this.pictures = ["the box", "20 pixels long", "28\u00d728"].map((name) => new Picture(this.line, name));
      this.words = CNN.element("p", {}, parent);
    }

    show({ steps: { box, small, center, image } }) {
      const [whole, short, last] = this.pictures;
      whole.show(box);
      short.show(small);
      last.show({ shape: [28, 28], data: image.data });
      last.cross(center);
      const size = ({ shape: [h, w] }) => `${h}\u00d7${w}`;
      this.words.textContent = `The box around the ink, ${size(box)} pixels, shrinks to ${size(small)}. `
        + `The centre of mass (cross) comes to row ${CNN.number(center[0])}, column ${CNN.number(center[1])}: `
        + "as near to pixel 14 as whole pixels allow.";
    }
  }

  /** A matrix as a picture under its name, with a frame or a cross. */
  class Picture {
    constructor(parent, name, signed = false) {
      const whole = CNN.element("div", { class: "live-picture" }, parent);
      this.name = CNN.element("p", { class: "live-map-name" }, whole);
      this.name.textContent = name;
      this.area = CNN.element("div", { class: "live-area" }, whole);
      this.canvas = CNN.element("canvas", { class: signed ? "live-signed" : "live-map", role: "img", "aria-label": name }, this.area);
      this.over = CNN.svg("svg", { "aria-hidden": "true" }, this.area);
      this.signed = signed;
    }

    show({ shape: [h, w], data }) {
      Object.assign(this.canvas, { width: w, height: h });
      this.over.setAttribute("viewBox", `0 0 ${w} ${h}`);
      this.over.replaceChildren();
      this.area.style.aspectRatio = `${w} / ${h}`;
      this.area.style.width = `${Math.min(100, (100 * w) / h)}%`;
      CNN.paint(this.canvas, data, data.reduce((a, b) => Math.max(a, Math.abs(b)), 0), this.signed);
    }

    cross([t, u]) {
      const at = (k) => k + 0.5;
      CNN.svg("path", { d: `M${at(u) - 2} ${at(t)}h4M${at(u)} ${at(t) - 2}v4` }, this.over);
    }

    frame(top, left, h, w = h) {
      CNN.svg("rect", { x: left, y: top, width: w, height: h }, this.over);
    }
  }

  /** One output of one convolution: window, filter, products and their sum. */
  class Convolution {
    constructor(parent, net) {
      this.parent = parent;
      this.convs = net.layers.flatMap((layer, l) => (layer.kind === "Conv2d" ? [{ l, layer }] : []));
      const row = CNN.element("div", { class: "live-controls live-choice", role: "group", "aria-label": "Which convolution" }, parent);
      this.picks = this.convs.map((_, k) => {
        const pick = CNN.button(`Convolution ${k + 1}`, () => this.choose(k));
        row.append(pick);
        return pick;
      });
      this.sliders = CNN.element("div", { class: "live-controls" }, parent);
      const maps = CNN.element("div", { class: "live-row live-two" }, parent);
      this.input = new Picture(maps, "");
      this.output = new Picture(maps, "", true);
      this.output.area.classList.add("live-target");
      for (const kind of ["pointerdown", "pointermove"]) {
        this.output.area.addEventListener(kind, (event) => this.point(event));
      }
      const steps = CNN.element("div", { class: "live-controls" }, parent);
      steps.append(CNN.button("Back", () => this.step(-1)), CNN.button("Next place", () => this.step(1)));
      this.grids = CNN.element("div", { class: "live-row live-grids" }, parent);
      this.sum = CNN.element("div", { class: "live-sum" }, parent);
      this.choose(0);
    }

    /** Choose the k-th convolution; its map, channel and place begin anew. */
    choose(k) {
      const { l, layer } = this.convs[k];
      Object.assign(this, { l, layer, nu: 0, mu: 0, i: 0, j: 0 });
      this.picks.forEach((pick, other) => pick.setAttribute("aria-pressed", `${other === k}`));
      this.fresh = true;
      if (this.seen) this.show(this.seen);
    }

    show(seen) {
      this.seen = seen;
      const x = this.l ? seen.outputs[this.l - 1] : seen.steps.image;
      this.xbar = CNN.pad(x, this.layer.padding);
      this.z = seen.outputs[this.l];
      if (this.fresh) this.begin();
      this.draw();
    }

    /** Make the sliders of this convolution, and begin where its output is largest. */
    begin() {
      this.fresh = false;
      const [C_out, h, w] = this.z.shape, [, C_in] = this.layer.W.shape;
      const best = this.z.data.indexOf(this.z.data.reduce((a, b) => Math.max(a, b)));
      this.nu = Math.floor(best / (h * w));
      this.i = Math.floor((best % (h * w)) / w);
      this.j = best % w;
      const ranges = { nu: ["map \u03bd", C_out], mu: ["channel \u03bc", C_in], i: ["row i", h], j: ["column j", w] };
      this.knobs = {};
      for (const [key, [name, n]] of Object.entries(ranges)) {
        const range = { min: 0, max: n - 1, value: this[key] };
        this.knobs[key] = CNN.slider(name, range, (value) => this.set({ [key]: value }));
        this.knobs[key].hidden = n === 1;
      }
      this.sliders.replaceChildren(...Object.values(this.knobs));
    }

    set(change) {
      Object.assign(this, change);
      for (const key of Object.keys(change)) this.knobs[key].set(this[key]);
      this.draw();
    }

    step(by) {
      const [, h, w] = this.z.shape, at = (this.i * w + this.j + by + h * w) % (h * w);
      this.set({ i: Math.floor(at / w), j: at % w });
    }

    /** @param {PointerEvent} event */
    point(event) {
      if (event.type === "pointermove" && !event.buttons) return;
      const [, h, w] = this.z.shape, box = this.output.area.getBoundingClientRect();
      const within = (n, size, length) => Math.min(Math.max(Math.floor((n / length) * size), 0), size - 1);
      this.set({
        i: within(event.clientY - box.top, h, box.height),
        j: within(event.clientX - box.left, w, box.width),
      });
    }

    /** Return the f × f numbers under the filter in channel mu. */
    window(mu) {
      const [, H, W] = this.xbar.shape, [, , f_h, f_w] = this.layer.W.shape, s = this.layer.stride;
      return Array.from({ length: f_h * f_w }, (_, k) => {
        const a = Math.floor(k / f_w), c = k % f_w;
        return this.xbar.data[(mu * H + s * this.i + a) * W + s * this.j + c];
      });
    }

    /** Return the weights that map nu has for channel mu. */
    filter(mu) {
      const [, C_in, f_h, f_w] = this.layer.W.shape, from = (this.nu * C_in + mu) * f_h * f_w;
      return Array.from(this.layer.W.data.subarray(from, from + f_h * f_w));
    }

    /** Return window times filter, place by place. */
    products(mu) {
      const W = this.filter(mu);
      return this.window(mu).map((x, k) => x * W[k]);
    }

    draw() {
      const { nu, mu, i, j, layer } = this, s = layer.stride;
      const [, H, width] = this.xbar.shape, [, C_in, f_h, f_w] = layer.W.shape;
      const [, h, w] = this.z.shape;
      const channel = this.xbar.data.subarray(mu * H * width, (mu + 1) * H * width);
      this.input.name.textContent = `what it reads${C_in > 1 ? `, channel ${mu}` : ""}: ${H}\u00d7${width} with its padding`;
      this.input.show({ shape: [H, width], data: channel });
      this.input.frame(s * i, s * j, f_h, f_w);
      this.output.name.textContent = `what it answers, map ${nu}: ${h}\u00d7${w}`;
      this.output.show({ shape: [h, w], data: this.z.data.subarray(nu * h * w, (nu + 1) * h * w) });
      this.output.frame(i, j, 1);
      const parts = [["window", this.window(mu)], ["filter", this.filter(mu)], ["products", this.products(mu)]];
      this.grids.replaceChildren(...parts.map(([name, a]) => grid(name, a, f_w)));
      this.total(C_in);
    }

    /** Write the sum over the channels, the bias and what comes out. */
    total(C_in) {
      const [, h, w] = this.z.shape, z = this.z.data[(this.nu * h + this.i) * w + this.j];
      const sums = Array.from({ length: C_in }, (_, mu) => this.products(mu).reduce((a, b) => a + b));
      this.sum.replaceChildren();
      const line = (name, x, key) => {
        CNN.element("span", {}, this.sum).textContent = name;
        const shown = CNN.element("output", { "data-key": key, "data-value": x }, this.sum);
        shown.textContent = fixed(x, 3);
      };
      sums.forEach((x, mu) => line(C_in > 1 ? `sum of the products, channel ${mu}` : "sum of the products", x, `sum-${mu}`));
      line(`bias of map ${this.nu}`, this.layer.b.data[this.nu], "bias");
      line(`together, z at (${this.i}, ${this.j})`, z, "z");
      line("after ReLU", Math.max(z, 0), "relu");
    }
  }

  /** Write a number with so many decimals. */
  function fixed(x, decimals) {
    return x.toFixed(decimals).replace(/^-(?=0\.?0*$)/, "").replace("-", "\u2212");
  }

  /** Return a table of numbers, tinted by sign and size. */
  function grid(name, a, columns) {
    const whole = CNN.element("div", { class: "live-grid", "data-name": name });
    CNN.element("p", { class: "live-map-name" }, whole).textContent = name;
    const cells = CNN.element("div", { class: "live-cells", style: `--columns: ${columns}` }, whole);
    const peak = a.reduce((most, x) => Math.max(most, Math.abs(x)), 0) || 1;
    for (const x of a) {
      const share = Math.round((40 * Math.abs(x)) / peak);
      const tone = x < 0 ? CNN.colours.negative : CNN.colours.positive;
      CNN.element("span", { style: `background: color-mix(in srgb, ${tone} ${share}%, transparent)` }, cells)
        .textContent = fixed(x, 2);
    }
    return whole;
  }

  CNN.live("fig-handwriting-steps", "Draw a digit, and follow it", (body) => {
    let seen = null, net, open = "steps";
    const shown = {};
    const board = CNN.drawing(body, (now, network) => {
      seen = now;
      net = network;
      frame.show(now);
      update();
    });
    const frame = new Box(board.canvas.parentElement);
    const row = CNN.element("div", { class: "live-controls live-choice", role: "group", "aria-label": "What to see" }, body);
    const panels = {};
    for (const [key, name] of Object.entries(PANELS)) {
      const pick = CNN.button(name, () => choose(key));
      row.append(pick);
      panels[key] = { pick, place: CNN.element("div", { class: "live-panel" }, body) };
    }

    function choose(key) {
      open = key;
      for (const [other, { pick, place }] of Object.entries(panels)) {
        pick.setAttribute("aria-pressed", `${other === key}`);
        place.hidden = other !== key;
      }
      update();
    }

    function update() {
      if (!seen) return;
      shown[open] ||= make[open](panels[open].place, net);
      shown[open].show(seen);
    }
    choose(open);
  });
})();
