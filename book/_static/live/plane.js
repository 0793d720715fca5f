/* Tables of squares that one can touch, and other parts that several live figures share. */
(() => {
  "use strict";

  const { element, svg, button } = CNN;
  const DIGITS = "₀₁₂₃₄₅₆₇₈₉";

  /** Write a whole number as an index. @param {...number} indices */
  function sub(...indices) {
    const one = (k) => String(k).replace("-", "₋").replace(/\d/g, (digit) => DIGITS[digit]);
    return indices.map(one).join(indices.some((k) => k > 9) ? "," : "");
  }

  /** Write a whole number with a true minus sign, in brackets if it is a factor below zero. */
  function whole(x, factor = false) {
    const text = String(x).replace("-", "−");
    return factor && x < 0 ? `(${text})` : text;
  }

  /**
   * Draw now, and again whenever the figure has another width.
   * @param {HTMLElement} body
   * @param {(width: number) => void} draw
   * @returns {() => void}  draws once more
   */
  function drawn(body, draw) {
    let width = 0;
    const again = () => { if (width) draw(width); };
    new ResizeObserver(() => {
      const now = Math.floor(body.clientWidth);
      if (now === width) return;
      width = now;
      again();
    }).observe(body);
    width = Math.floor(body.clientWidth);
    again();
    return again;
  }

  /**
   * Make a row of buttons of which one is pressed.
   * @param {string} label
   * @param {Object<string, string>} options  what each choice is called
   * @param {string} chosen
   * @param {(key: string) => void} onchange
   */
  function choice(label, options, chosen, onchange) {
    const group = element("div", { class: "live-options", role: "group", "aria-label": label });
    const press = (key) => {
      for (const one of group.children) one.setAttribute("aria-pressed", one.dataset.key === key);
    };
    for (const [key, name] of Object.entries(options)) {
      const one = button(name, () => { press(key); onchange(key); });
      one.dataset.key = key;
      group.append(one);
    }
    press(chosen);
    return Object.assign(group, { set: press });
  }

  /** Make the line in which a figure says what was chosen. @param {HTMLElement} parent */
  function said(parent) {
    return element("div", { class: "live-said", "aria-live": "polite" }, parent);
  }

  /** Write lines, one paragraph each, if they are new. @param {HTMLElement} place */
  function say(place, ...lines) {
    if (place.innerText === lines.join("\n")) return;
    place.replaceChildren(...lines.map((line) => {
      const one = element("p");
      one.textContent = line;
      return one;
    }));
  }

  /**
   * What a square shows: its text, its look (the names of classes), nothing where undefined.
   * @typedef {{text?: string | number, look?: string} | undefined} Square
   * @typedef {{rows: number, columns: number, side: number, height?: number,
   *            square: (row: number, column: number) => Square,
   *            at?: {row: number, column: number}}} Table
   */

  /**
   * Make a table of squares. A tap, a drag or an arrow key chooses one of them.
   * @param {HTMLElement} parent
   * @param {string} label
   * @param {(row: number, column: number, by: "row" | "column" | "touch") => void} [onchoose]
   * @returns {{box: HTMLElement, draw: (table: Table) => void}}
   */
  function plane(parent, label, onchoose = undefined) {
    const box = element("div", { class: "live-plane" }, parent);
    const picture = svg("svg", { role: onchoose ? "application" : "img", "aria-label": label }, box);
    let table = { rows: 1, columns: 1, side: 1, square: () => undefined };

    /** @param {Table} next */
    function draw(next) {
      table = { height: next.side, ...next };
      const width = table.columns * table.side + 2, high = table.rows * table.height + 2;
      for (const [key, value] of Object.entries({ width, height: high, viewBox: `-1 -1 ${width} ${high}` })) {
        picture.setAttribute(key, value);
      }
      picture.replaceChildren();
      for (let row = 0; row < table.rows; row++) {
        for (let column = 0; column < table.columns; column++) {
          drawSquare(row, column, table.square(row, column));
        }
      }
    }

    function drawSquare(row, column, square) {
      if (!square) return;
      const { side, height } = table, x = column * side, y = row * height;
      const group = svg("g", { class: `square ${square.look || ""}`, "data-at": `${row},${column}` }, picture);
      svg("rect", { x, y, width: side, height }, group);
      const text = square.text === undefined ? "" : String(square.text);
      if (!text) return;
      const place = { x: x + side / 2, y: y + height / 2, "text-anchor": "middle", "dominant-baseline": "central" };
      svg("text", { ...place, "font-size": Math.max(12, Math.min(16, side * 0.45)) }, group).textContent = text;
    }

    function choose(row, column, by) {
      const inside = (k, n) => Math.max(0, Math.min(n - 1, k));
      onchoose(inside(row, table.rows), inside(column, table.columns), by);
    }

    function touch(event) {
      const frame = picture.getBoundingClientRect();
      const across = (event.clientX - frame.left) / frame.width * table.columns;
      const down = (event.clientY - frame.top) / frame.height * table.rows;
      choose(Math.floor(down), Math.floor(across), "touch");
    }

    if (onchoose) {
      picture.setAttribute("tabindex", 0);
      picture.addEventListener("pointerdown", (event) => {
        picture.setPointerCapture(event.pointerId);
        touch(event);
      });
      picture.addEventListener("pointermove", (event) => {
        if (picture.hasPointerCapture(event.pointerId)) touch(event);
      });
      picture.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
        if (!move) return;
        event.preventDefault();
        event.stopPropagation(); // arrow keys may also turn pages
        const { row, column } = table.at || { row: 0, column: 0 };
        choose(row + move[0], column + move[1], move[0] ? "row" : "column");
      });
    }
    return { box, draw, picture };
  }

  Object.assign(CNN, { sub, whole, drawn, choice, said, say, plane });
})();
