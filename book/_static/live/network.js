/* The forward pass of the book's network, and the way of a drawing into it: chapters 4, 13, 22. */
(() => {
  "use strict";

  /** @typedef {{shape: number[], data: Float32Array}} Tensor  row by row, no axis for a batch */

  const FORWARD = { Conv2d: conv2d, ReLU: relu, Flatten: flatten, Linear: linear };

  /**
   * Make a network of layers, in order, whose arrays may be in base 64.
   * @param {Array<{kind: string, stride?: number, padding?: number, weight?: object,
   *                bias?: object}>} layers
   */
  function network(layers) {
    const read = layers.map((layer) => "weight" in layer
      ? { ...layer, W: tensor(layer.weight), b: tensor(layer.bias) }
      : layer);

    /** Return the output of each layer, the first layer's first, as `cnn.activations`. */
    function activations(x) {
      return read.map((layer) => (x = FORWARD[layer.kind](x, layer)));
    }
    return { layers: read, activations, scores: (x) => activations(x).pop().data };
  }

  /** @returns {Tensor} */
  function tensor({ shape, data, base64 }) {
    if (base64 === undefined) return { shape, data: Float32Array.from(data) };
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    return { shape, data: new Float32Array(bytes.buffer) };
  }

  /** Surround each channel with p zeros. */
  function pad({ shape: [C, H, W], data }, p) {
    const h = H + 2 * p, w = W + 2 * p, xbar = new Float32Array(C * h * w);
    for (let mu = 0; mu < C; mu++) {
      for (let i = 0; i < H; i++) {
        const row = (mu * H + i) * W;
        xbar.set(data.subarray(row, row + W), (mu * h + i + p) * w + p);
      }
    }
    return { shape: [C, h, w], data: xbar };
  }

  /** z = b + Σ W · xbar, the window at (i, j) beginning at row s·i and column s·j. */
  function conv2d(x, { W, b, stride: s, padding: p }) {
    const xbar = pad(x, p), [, H, width] = xbar.shape, [C_out, C_in, f_h, f_w] = W.shape;
    const h = Math.floor((H - f_h) / s) + 1, w = Math.floor((width - f_w) / s) + 1;
    const z = new Float32Array(C_out * h * w), X = xbar.data, V = W.data;
    for (let nu = 0, at = 0; nu < C_out; nu++) {
      for (let i = 0; i < h; i++) {
        for (let j = 0; j < w; j++, at++) {
          let sum = b.data[nu], tap = nu * C_in * f_h * f_w;
          for (let mu = 0; mu < C_in; mu++) {
            for (let a = 0; a < f_h; a++) {
              const row = (mu * H + s * i + a) * width + s * j;
              for (let c = 0; c < f_w; c++) sum += V[tap++] * X[row + c];
            }
          }
          z[at] = sum;
        }
      }
    }
    return { shape: [C_out, h, w], data: z };
  }

  function relu({ shape, data }) {
    return { shape, data: data.map((z) => Math.max(z, 0)) };
  }

  function flatten({ data }) {
    return { shape: [data.length], data };
  }

  /** z = W q + b. */
  function linear({ data: q }, { W, b }) {
    const z = b.data.map((bias, k) => {
      let sum = bias;
      for (let l = 0, at = k * q.length; l < q.length; l++) sum += W.data[at + l] * q[l];
      return sum;
    });
    return { shape: [z.length], data: z };
  }

  /**
   * Return the probabilities of scores.
   * @param {Float32Array} z
   * @returns {number[]}
   */
  function softmax(z) {
    const peak = Math.max(...z), e = Array.from(z, (score) => Math.exp(score - peak));
    const sum = e.reduce((a, b) => a + b);
    return e.map((term) => term / sum);
  }

  /** Round as Python does: a half goes to the even neighbour. */
  function round(x) {
    const down = Math.floor(x), half = x - down === 0.5;
    return half ? down + (down % 2) : Math.round(x);
  }

  /**
   * Change an image's size by area averaging, as `cnn.handwriting.resize`.
   * @param {{shape: number[], data: ArrayLike<number>}} image
   */
  function resize({ shape: [H, W], data }, [S, T]) {
    const across = new Float64Array(H * T), x = new Float64Array(S * T);
    for (const [j, l, part] of overlaps(W, T)) {
      for (let k = 0; k < H; k++) across[k * T + j] += part * data[k * W + l];
    }
    for (const [i, k, part] of overlaps(H, S)) {
      for (let j = 0; j < T; j++) x[i * T + j] += part * across[k * T + j];
    }
    return { shape: [S, T], data: x };
  }

  /** List [i, k, A_ik]: the part of new pixel i, of S, that old pixel k, of H, fills. */
  function overlaps(H, S) {
    const s = H / S, found = [];
    for (let i = 0; i < S; i++) {
      for (let k = Math.floor(i * s); k < H && k < (i + 1) * s; k++) {
        const part = (Math.min((i + 1) * s, k + 1) - Math.max(i * s, k)) / s;
        if (part > 0) found.push([i, k, part]);
      }
    }
    return found;
  }

  /** Return the mean row and the mean column of an image's ink. */
  function centerOfMass({ shape: [, W], data }) {
    let m = 0, t = 0, u = 0;
    data.forEach((ink, at) => {
      m += ink;
      t += ink * Math.floor(at / W);
      u += ink * (at % W);
    });
    return [t / m, u / m];
  }

  /** Cut out the smallest box with all the ink; null where there is none. */
  function crop({ shape: [H, W], data }) {
    let top = H, left = W, bottom = -1, right = -1;
    for (let i = 0; i < H; i++) {
      for (let j = 0; j < W; j++) {
        if (data[i * W + j] > 0) {
          top = Math.min(top, i);
          bottom = i;
          left = Math.min(left, j);
          right = Math.max(right, j);
        }
      }
    }
    if (bottom < 0) return null;
    const h = bottom - top + 1, w = right - left + 1, box = new Float64Array(h * w);
    for (let i = 0; i < h; i++) {
      for (let j = 0; j < w; j++) box[i * w + j] = data[(top + i) * W + left + j];
    }
    return { top, left, shape: [h, w], data: box };
  }

  /**
   * Make an image of MNIST's form from ink, as `cnn.handwriting.as_mnist`, and tell the steps.
   * @param {{shape: number[], data: ArrayLike<number>}} ink  from 0, the ground, to 1
   * @returns {{box: object, small: object, center: number[], image: Tensor} | null}
   */
  function asMnist(ink) {
    const box = crop(ink);
    if (!box) return null;
    const longest = Math.max(...box.shape);
    const [h, w] = box.shape.map((n) => Math.max(1, round((20 * n) / longest)));
    const small = resize(box, [h, w]), peak = small.data.reduce((a, b) => Math.max(a, b), 0);
    small.data.forEach((x, at) => { small.data[at] = x / peak; });
    const [t, u] = centerOfMass(small), data = new Float32Array(28 * 28);
    const top = Math.min(Math.max(round(14 - t), 0), 28 - h);
    const left = Math.min(Math.max(round(14 - u), 0), 28 - w);
    for (let i = 0; i < h; i++) {
      data.set(small.data.subarray(i * w, (i + 1) * w), (top + i) * 28 + left);
    }
    const image = { shape: [1, 28, 28], data };
    return { ink, box, small, center: [top + t, left + u], image };
  }

  Object.assign(window.CNN, { network, pad, softmax, resize, centerOfMass, asMnist });
})();
