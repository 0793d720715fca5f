/* What all live figures share: a frame in place of a printed figure, and its controls. */
(() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const HERE = document.currentScript ? document.currentScript.src : location.href;
  const loading = new Map();

  /** The figures' tones, as CSS values; they follow the colour scheme. */
  const colours = {
    positive: "var(--live-positive)",
    negative: "var(--live-negative)",
    grey: "var(--live-grey)",
    accent: "var(--live-accent)",
    ink: "var(--live-ink)",
    line: "var(--live-line)",
    ground: "var(--live-ground)",
  };

  /**
   * Call a function when the page has been read, or at once where an element is there already.
   * @param {() => void} act
   * @param {string} [id]
   */
  function ready(act, id = "") {
    if (document.readyState !== "loading" || document.getElementById(id)) act();
    else document.addEventListener("DOMContentLoaded", act, { once: true });
  }

  /**
   * Attach a live figure to the page's figure of this name; without one, nothing happens.
   * @param {string} name  the figure's id, such as "fig-conv-dw"
   * @param {string} title  what one can do, in a few words
   * @param {(body: HTMLElement) => void} build  fills the frame
   */
  function live(name, title, build) {
    ready(() => {
      const printed = document.getElementById(name);
      if (!printed || printed.querySelector(":scope > .live")) return;
      const frame = element("div", { class: "live", role: "group", "aria-label": title });
      const head = element("div", { class: "live-head" }, frame);
      element("p", { class: "live-title" }, head).textContent = title;
      const body = element("div", { class: "live-body" }, frame);
      const change = button("", () => show(printed.dataset.live === "printed"));
      change.classList.add("live-switch");
      head.append(change);

      /** @param {boolean} alive */
      function show(alive) {
        printed.dataset.live = alive ? "live" : "printed";
        change.textContent = alive ? "Printed figure" : "Try it";
      }
      printed.insertBefore(frame, printed.querySelector(":scope > figcaption"));
      show(true);
      try {
        build(body);
      } catch (error) { // the printed figure is better than half a live one
        frame.remove();
        delete printed.dataset.live;
        throw error;
      }
    }, name);
  }

  /**
   * Load a script of this folder, once; what it defines is there when the promise is kept.
   * @param {string} file
   * @returns {Promise<void>}
   */
  function load(file) {
    if (!loading.has(file)) {
      loading.set(file, new Promise((done, failed) => {
        const script = element("script", { src: new URL(file, HERE).href });
        script.onload = () => done();
        script.onerror = () => failed(new Error(`${file} is missing`));
        document.head.append(script);
      }));
    }
    return loading.get(file);
  }

  /**
   * Make an HTML element.
   * @param {string} tag
   * @param {Object<string, string | number>} [attrs]
   * @param {Node} [parent]  where to append it
   * @returns {HTMLElement}
   */
  function element(tag, attrs = {}, parent = undefined) {
    return dress(document.createElement(tag), attrs, parent);
  }

  /**
   * Make an SVG element; without a parent only "svg" makes sense.
   * @param {string} tag
   * @param {Object<string, string | number>} [attrs]
   * @param {Node} [parent]
   * @returns {SVGElement}
   */
  function svg(tag, attrs = {}, parent = undefined) {
    return dress(document.createElementNS(SVG, tag), attrs, parent);
  }

  function dress(made, attrs, parent) {
    for (const [key, value] of Object.entries(attrs)) made.setAttribute(key, value);
    if (parent) parent.append(made);
    return made;
  }

  /**
   * Make a slider with its label and its value; `set(value)` moves it without calling oninput.
   * @param {string} label
   * @param {{min: number, max: number, step?: number, value: number,
   *          show?: (x: number) => string}} range
   * @param {(x: number) => void} oninput
   * @returns {HTMLElement & {input: HTMLInputElement, set: (x: number) => void}}
   */
  function slider(label, { min, max, step = 1, value, show = number }, oninput) {
    const whole = element("label", { class: "live-slider" });
    element("span", { class: "live-label" }, whole).textContent = label;
    const input = element("input", { type: "range", "aria-label": label, min, max, step, value }, whole);
    const shown = element("output", {}, whole);
    function tell() {
      shown.textContent = show(input.valueAsNumber);
      input.setAttribute("aria-valuetext", shown.textContent);
    }
    input.addEventListener("input", () => {
      tell();
      oninput(input.valueAsNumber);
    });
    tell();
    return Object.assign(whole, { input, set: (x) => { input.value = x; tell(); } });
  }

  /**
   * Make a button.
   * @param {string} label
   * @param {(event: MouseEvent) => void} onclick
   * @returns {HTMLButtonElement}
   */
  function button(label, onclick) {
    const made = element("button", { type: "button", class: "live-button" });
    made.textContent = label;
    made.addEventListener("click", onclick);
    return made;
  }

  /**
   * Write a number as the book does: few digits, a true minus sign, spaces between thousands.
   * @param {number} x
   * @param {number} [digits]  how many of them count
   * @returns {string}
   */
  function number(x, digits = 3) {
    if (!Number.isFinite(x)) {
      return Number.isNaN(x) ? "not a number" : x < 0 ? "\u2212\u221e" : "\u221e";
    }
    if (x !== 0 && (Math.abs(x) < 1e-3 || Math.abs(x) >= 1e9)) {
      const [a, e] = x.toExponential(digits - 1).split("e");
      const raised = [...String(Number(e))].map((c) => "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[c] ?? "\u207b").join("");
      return minus(`${Number(a)}\u00b710${raised}`);
    }
    const rounded = Math.abs(x) >= 10 ** digits ? Math.round(x) : Number(x.toPrecision(digits));
    const [whole, part] = String(rounded).split(".");
    const grouped = Math.abs(x) >= 1e4 ? whole.replace(/\B(?=(\d{3})+$)/g, "\u00a0") : whole;
    return minus(part ? `${grouped}.${part}` : grouped);
  }

  /** @param {string} text */
  function minus(text) {
    return text.replace(/^-/, "\u2212");
  }

  window.CNN = Object.assign(window.CNN || {}, {
    live, ready, load, element, svg, slider, button, number, colours,
  });
})();
