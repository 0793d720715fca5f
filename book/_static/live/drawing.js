/* Draw a digit: the board, the ten bars of the answer, the maps of the layers. */
(() => {
  "use strict";

  const SIDE = 280, PEN = 21;
  const STILL = matchMedia("(prefers-reduced-motion: reduce)");
  const SIGNED = { positive: [217, 102, 59], negative: [59, 130, 214] };
  const NAMES = { Conv2d: "Convolution", ReLU: "ReLU", Linear: "Dense layer" };

  /** @typedef {Array<Array<[number, number]>>} Strokes  points in a square of side 1 */

  /** Points on an arc about (x, y), its angles in degrees, clockwise from the right. */
  function arc(x, y, rx, ry, start, end) {
    return Array.from({ length: 25 }, (_, k) => {
      const a = ((start + ((end - start) * k) / 24) * Math.PI) / 180;
      return [x + rx * Math.cos(a), y + ry * Math.sin(a)];
    });
  }

  /** The ten digits of chapter 22, as a pen writes them. @type {Strokes[]} */
  const DIGITS = [
    [arc(0.5, 0.5, 0.27, 0.4, -90, 270)],
    [[[0.55, 0.1], [0.47, 0.9]]],
    [[...arc(0.48, 0.32, 0.24, 0.22, -170, 40), [0.25, 0.88], [0.8, 0.87]]],
    [[...arc(0.45, 0.3, 0.24, 0.2, -150, 85), ...arc(0.45, 0.69, 0.27, 0.2, -85, 150)]],
    [[[0.32, 0.1], [0.25, 0.52], [0.75, 0.5]], [[0.7, 0.12], [0.64, 0.92]]],
    [[[0.74, 0.12], [0.36, 0.12], [0.32, 0.45], ...arc(0.46, 0.64, 0.25, 0.24, -115, 140)]],
    [[...arc(0.58, 0.62, 0.3, 0.54, -82, -180), ...arc(0.49, 0.68, 0.21, 0.22, -180, 180)]],
    [[[0.22, 0.15], [0.76, 0.14], [0.42, 0.92]]],
    [[...arc(0.5, 0.29, 0.19, 0.19, 90, -270), ...arc(0.5, 0.69, 0.24, 0.21, -90, 270)]],
    [arc(0.48, 0.32, 0.22, 0.22, 0, -360), [[0.7, 0.35], [0.64, 0.92]]],
  ];

  /** The board itself: one draws on it with whatever points, or it writes. */
  class Board {
    /**
     * @param {HTMLElement} parent
     * @param {() => void} changed  called once a frame, at most, while there is new ink
     */
    constructor(parent, changed) {
      this.canvas = CNN.element("canvas", {
        class: "live-board", width: SIDE, height: SIDE, role: "img",
        "aria-label": "A board to draw a digit on",
      }, parent);
      this.context = this.canvas.getContext("2d", { willReadFrequently: true });
      Object.assign(this.context, {
        lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#fff",
      });
      this.changed = changed;
      this.example = false; // what stands there is no work of the reader's
      this.writing = 0;
      this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
      this.canvas.addEventListener("pointermove", (event) => this.go(event));
      for (const end of ["pointerup", "pointercancel"]) {
        this.canvas.addEventListener(end, () => { this.last = undefined; });
      }
    }

    /** @param {PointerEvent} event */
    begin(event) {
      if (event.button !== 0) return;
      event.preventDefault();
      if (this.example) this.clear();
      this.canvas.setPointerCapture(event.pointerId);
      this.pointer = event.pointerId;
      this.last = this.place(event);
      this.line(this.last, this.last);
    }

    /** @param {PointerEvent} event */
    go(event) {
      if (!this.last || event.pointerId !== this.pointer) return;
      const points = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      for (const point of points.length ? points : [event]) {
        const next = this.place(point);
        this.line(this.last, next);
        this.last = next;
      }
    }

    /** Return where on the board an event is. */
    place({ clientX, clientY }) {
      const box = this.canvas.getBoundingClientRect();
      return [((clientX - box.left) / box.width) * SIDE, ((clientY - box.top) / box.height) * SIDE];
    }

    line([x, y], [u, v]) {
      this.context.beginPath();
      this.context.moveTo(x, y);
      this.context.lineTo(u, v);
      this.context.stroke();
      this.tell();
    }

    tell() {
      if (this.asked) return;
      this.asked = requestAnimationFrame(() => {
        this.asked = 0;
        this.changed();
      });
    }

    clear() {
      cancelAnimationFrame(this.writing);
      delete this.canvas.dataset.writing;
      this.example = false;
      this.context.clearRect(0, 0, SIDE, SIDE);
      this.tell();
    }

    /**
     * Write one of the ten digits, stroke by stroke where the reader likes things to move.
     * @param {number} digit
     */
    write(digit) {
      this.clear();
      this.example = true;
      this.canvas.dataset.writing = digit;
      const pieces = DIGITS[digit].flatMap((stroke) => stroke.slice(1).map((p, k) => [stroke[k], p]));
      const lengths = pieces.map(([[x, y], [u, v]]) => Math.hypot(u - x, v - y));
      const total = lengths.reduce((a, b) => a + b), start = performance.now();
      const scale = ([x, y]) => [(0.1 + 0.8 * x) * SIDE, (0.15 + 0.8 * y) * SIDE];
      let done = 0, k = 0;
      const step = () => {
        const ink = STILL.matches ? total : ((performance.now() - start) / 900) * total;
        while (k < pieces.length && done <= ink) {
          done += lengths[k];
          this.line(...pieces[k++].map(scale));
        }
        if (k < pieces.length) this.writing = requestAnimationFrame(step);
        else delete this.canvas.dataset.writing;
      };
      step();
    }

    /** Return the ink, 0 to 1. */
    ink() {
      const { data } = this.context.getImageData(0, 0, SIDE, SIDE);
      const ink = new Float32Array(SIDE * SIDE);
      for (let at = 0; at < ink.length; at++) ink[at] = data[4 * at + 3] / 255;
      return { shape: [SIDE, SIDE], data: ink };
    }
  }

  /** Ten bars, one for each digit's probability, and the answer in words. */
  class Bars {
    /** @param {HTMLElement} parent */
    constructor(parent) {
      const list = CNN.element("div", { class: "live-bars", "aria-hidden": "true" }, parent);
      this.rows = Array.from({ length: 10 }, (_, digit) => {
        const row = CNN.element("div", { class: "live-bar" }, list);
        CNN.element("span", {}, row).textContent = digit;
        const track = CNN.element("span", { class: "live-track" }, row);
        const fill = CNN.element("span", { class: "live-fill" }, track);
        return { row, fill, share: CNN.element("span", {}, row) };
      });
      this.words = CNN.element("p", { class: "live-answer", role: "status" }, parent);
      this.show(null);
    }

    /** @param {number[] | null} P  ten probabilities, or none yet */
    show(P) {
      const best = P ? P.indexOf(Math.max(...P)) : -1;
      this.rows.forEach(({ row, fill, share }, digit) => {
        row.classList.toggle("live-best", digit === best);
        fill.style.transform = `scaleX(${P ? P[digit] : 0})`;
        share.textContent = P ? percent(P[digit]) : "";
      });
      clearTimeout(this.later); // a screen reader is told when the pen rests
      const text = P ? `It reads a ${best}, with probability ${percent(P[best])}.` : "";
      this.later = setTimeout(() => { this.words.textContent = text; }, P ? 250 : 0);
    }
  }

  /** Write a probability. */
  function percent(p) {
    if (p > 0.9995) return "100\u00a0%";
    return `${CNN.number(100 * p < 0.05 ? 0 : Number((100 * p).toFixed(1)))}\u00a0%`;
  }

  /**
   * Paint a matrix: white on black from 0 to its peak, or in two colours by sign.
   * @param {HTMLCanvasElement} canvas
   * @param {ArrayLike<number>} a  row by row
   * @param {number} peak  what is fully bright
   * @param {boolean} signed
   */
  function paint(canvas, a, peak, signed) {
    const context = canvas.getContext("2d"), { width, height } = canvas;
    const picture = context.createImageData(width, height);
    for (let at = 0; at < a.length; at++) {
      const tone = signed ? SIGNED[a[at] < 0 ? "negative" : "positive"] : [255, 255, 255];
      picture.data.set([...tone, 255 * Math.min(1, Math.abs(a[at]) / (peak || 1))], 4 * at);
    }
    context.putImageData(picture, 0, 0);
  }

  /** The outputs of layers, a picture for every channel. */
  class Maps {
    /**
     * @param {HTMLElement} parent
     * @param {object} net  from `CNN.network`
     * @param {(layer: {kind: string}) => boolean} wanted  which layers
     */
    constructor(parent, net, wanted) {
      this.parent = parent;
      this.rows = [];
      const count = {};
      net.layers.forEach((layer, l) => {
        count[layer.kind] = (count[layer.kind] || 0) + 1;
        if (wanted(layer)) this.rows.push({ l, layer, name: `${NAMES[layer.kind]} ${count[layer.kind]}` });
      });
    }

    /** @param {Array<{shape: number[], data: Float32Array}>} outputs  of all layers */
    show(outputs) {
      for (const row of this.rows) {
        const { shape, data } = outputs[row.l], [C, h, w] = sizes(shape);
        row.canvases ||= this.make(row, shape, C, h, w);
        const peak = data.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
        row.canvases.forEach((canvas, nu) => {
          const a = data.subarray(nu * h * w, (nu + 1) * h * w);
          paint(canvas, a, peak, row.layer.kind !== "ReLU");
        });
      }
    }

    make({ layer, name }, shape, C, h, w) {
      const signed = layer.kind !== "ReLU";
      const what = shape.length === 3 ? `${C} maps of ${h}\u00d7${w}` : `${shape[0]} numbers`;
      const label = CNN.element("p", { class: "live-map-name" }, this.parent);
      CNN.element("b", {}, label).textContent = name;
      label.append(`, ${what}${signed ? ": orange above zero, blue below" : ""}`);
      const line = CNN.element("div", { class: "live-maps", role: "img", "aria-label": `${name}: ${what}` }, this.parent);
      return Array.from({ length: C }, () => CNN.element("canvas", {
        width: w, height: h, class: signed ? "live-signed" : "live-map",
        style: `--columns: ${w}; --rows: ${h}`,
      }, line));
    }
  }

  /** How a layer's output is laid out in pictures: how many, their rows and columns. */
  function sizes(shape) {
    if (shape.length === 3) return shape;
    return shape[0] % 40 ? [1, 1, shape[0]] : [1, shape[0] / 40, 40];
  }

  /**
   * Make the board with its bars, its button and its examples, and read what is drawn.
   * @param {HTMLElement} parent
   * @param {(seen: {steps: object, outputs: object[], P: number[]} | null, net: object) => void} see
   *   told of every answer, or null while nothing is drawn
   */
  function drawing(parent, see = () => {}) {
    const whole = CNN.element("div", { class: "live-drawing" }, parent);
    const left = CNN.element("div", { class: "live-paper" }, whole);
    const bars = new Bars(CNN.element("div", { class: "live-result" }, whole));
    let net;
    const board = new Board(left, read);
    const hint = CNN.element("p", { class: "live-hint" }, left);
    hint.textContent = "Draw a digit here";
    const clear = CNN.button("Clear", () => board.clear());
    clear.classList.add("live-clear");
    left.append(clear);
    const row = CNN.element("div", { class: "live-examples", role: "group", "aria-label": "Examples" }, whole);
    CNN.element("span", { class: "live-label" }, row).textContent = "or pick one";
    for (let digit = 0; digit < 10; digit++) {
      const pick = CNN.button(`${digit}`, () => board.write(digit));
      pick.setAttribute("aria-label", `Write a ${digit}`);
      row.append(pick);
    }

    function read() {
      if (!net) return;
      const steps = CNN.asMnist(board.ink());
      hint.hidden = steps && !board.example;
      clear.disabled = !steps;
      if (!steps) {
        bars.show(null);
        see(null, net);
        return;
      }
      const outputs = net.activations(steps.image), P = CNN.softmax(outputs.at(-1).data);
      bars.show(P);
      see({ steps, outputs, P }, net);
    }

    CNN.load("weights.js").then(() => {
      net = CNN.network(CNN.weights);
      if (board.last) read(); // the reader was quicker
      else board.write(3);
    });
    return board;
  }

  Object.assign(window.CNN, { drawing, paint, percent, Maps });
})();
