/* Where a filter goes, forward and backward: the formulas of chapters 10, 11, 12 and 25. */
(() => {
  "use strict";

  /**
   * Where a filter goes along one axis.
   * @typedef {{H: number, f: number, s: number, d: number, before: number, after: number}} Row
   * @typedef {Row & {Hbar: number, e: number, h_out: number, r: number}} Geometry
   */

  /**
   * Count the windows and the remainder; h_out is 0 where not one window fits.
   * @param {Row} row
   * @returns {Geometry}
   */
  function geometry({ H, f, s, d, before = 0, after = 0 }) {
    const Hbar = before + H + after, e = d * (f - 1), room = Hbar - e - 1;
    const fits = room >= 0;
    const h_out = fits ? Math.floor(room / s) + 1 : 0, r = fits ? room % s : Hbar;
    return { H, f, s, d, before, after, Hbar, e, h_out, r };
  }

  /**
   * List the pixels that an output reads, s i + d a for every tap a.
   * @param {Geometry} g
   * @param {number} i
   */
  function reads(g, i) {
    return Array.from({ length: g.f }, (_, a) => ({ i, a, h: g.s * i + g.d * a }));
  }

  /**
   * List the pairs that meet the pixel h of the padded row: s i + d a = h.
   * @param {Geometry} g
   * @param {number} h
   */
  function meets(g, h) {
    const pairs = [];
    for (let i = 0; i < g.h_out; i++) {
      const a = (h - g.s * i) / g.d;
      if (Number.isInteger(a) && a >= 0 && a < g.f) pairs.push({ i, a, h });
    }
    return pairs;
  }

  /** Return the outputs of a padded row. @param {Geometry} g */
  function forward(g, xbar, W, b = 0) {
    const sum = (i) => reads(g, i).reduce((z, { a, h }) => z + xbar[h] * W[a], b);
    return Array.from({ length: g.h_out }, (_, i) => sum(i));
  }

  /** Return the blame of every pixel of the padded row. @param {Geometry} g */
  function backward(g, dz, W) {
    const sum = (h) => meets(g, h).reduce((dx, { i, a }) => dx + dz[i] * W[a], 0);
    return Array.from({ length: g.Hbar }, (_, h) => sum(h));
  }

  /** Put step − 1 zeros between neighbours. @param {number[]} a */
  function spread(a, step) {
    return a.flatMap((value, k) => (k ? [...Array(step - 1).fill(0), value] : [value]));
  }

  /** Return E: the spread blame with e zeros before and e + r after. @param {Geometry} g */
  function framed(g, dz) {
    return [...Array(g.e).fill(0), ...spread(dz, g.s), ...Array(g.e + g.r).fill(0)];
  }

  /** Return F°: the filter, spread by the dilation and read backwards. @param {Geometry} g */
  function turned(g, W) {
    return spread(W, g.d).reverse();
  }

  /** Cross-correlate two rows with stride 1. @param {number[]} E @param {number[]} F */
  function correlate(E, F) {
    const at = (h) => F.reduce((sum, value, v) => sum + E[h + v] * value, 0);
    return Array.from({ length: E.length - F.length + 1 }, (_, h) => at(h));
  }

  /** Return the matrix A of a padded row: which weight joins which pixel to which output. */
  function matrix(g, W) {
    return Array.from({ length: g.h_out }, (_, i) => {
      const row = Array(g.Hbar).fill(0);
      for (const { a, h } of reads(g, i)) row[h] = W[a];
      return row;
    });
  }

  /** Apply a function of rows to every row of a plane, then to every column of the result. */
  function both(plane, act) {
    const turn = (p) => p[0].map((_, w) => p.map((row) => row[w]));
    return turn(turn(plane.map(act)).map(act));
  }

  /** Return the blame of every padded pixel of a plane. @param {Geometry} gh @param {Geometry} gw */
  function backward2d(gh, gw, dz, W) {
    const sum = (h, w) => meets(gh, h).reduce((all, { i, a }) =>
      meets(gw, w).reduce((dx, { i: j, a: c }) => dx + dz[i][j] * W[a][c], all), 0);
    return Array.from({ length: gh.Hbar }, (_, h) =>
      Array.from({ length: gw.Hbar }, (_, w) => sum(h, w)));
  }

  /** Return E of a plane. @param {Geometry} gh @param {Geometry} gw @param {number[][]} dz */
  function framed2d(gh, gw, dz) {
    const rows = dz.map((row) => framed(gw, row));
    const zeros = Array(rows[0].length).fill(0);
    return framed(gh, rows.map((_, i) => i + 1)).map((i) => (i ? rows[i - 1] : zeros));
  }

  /**
   * Stack the windows of a plane: V has a row for each tap and a column for each window.
   * @param {Geometry} gh @param {Geometry} gw @param {number[][]} x  with its padding
   */
  function columns(gh, gw, x) {
    const V = [];
    for (let a = 0; a < gh.f; a++) {
      for (let c = 0; c < gw.f; c++) {
        const row = [];
        for (let i = 0; i < gh.h_out; i++) {
          for (let j = 0; j < gw.h_out; j++) row.push(x[gh.s * i + gh.d * a][gw.s * j + gw.d * c]);
        }
        V.push(row);
      }
    }
    return V;
  }

  /** List the taps that a pixel with remainder rho can meet: s divides d a − ρ. */
  function taps(f, s, d, rho) {
    return [...Array(f).keys()].filter((a) => (d * a - rho) % s === 0);
  }

  window.CNN = Object.assign(window.CNN || {}, {
    conv: {
      geometry, reads, meets, forward, backward, spread, framed, turned, correlate, matrix,
      both, backward2d, framed2d, columns, taps,
    },
  });
})();
