// A drawing area of 28 by 28 cells, for pointers and keys.

export const SIDE = 28;

/** The digits of MNIST fill a box of twenty cells, and their center of mass is that of the image. */
const BOX = 20;

/** How far the pen reaches, in cells. */
const PEN = 1.25;

export class Pad {
  /** Values from 0 to 255, row by row. */
  cells = new Float32Array(SIDE * SIDE);
  #canvas;
  #changed;
  #said;
  #last = null;
  /** The cell of the keyboard's pen. */
  #at = [SIDE / 2, SIDE / 2];
  #down = false;
  #waiting = false;

  /** Calls `changed` after every change, once a frame, and `said` with what the keyboard's pen does. */
  constructor(canvas, changed, said) {
    this.#canvas = canvas;
    this.#changed = changed;
    this.#said = said;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#last = null;
      this.#follow([event]);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      const between = event.getCoalescedEvents?.() ?? [];
      this.#follow(between.length > 0 ? between : [event]);
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const event of ["focus", "blur"]) canvas.addEventListener(event, () => this.#paint());
    this.#paint();
  }

  get empty() {
    return this.cells.every((value) => value === 0);
  }

  clear() {
    this.show(new Float32Array(SIDE * SIDE));
  }

  show(cells) {
    this.cells.set(cells);
    this.#change();
  }

  /** The drawing as the images of MNIST are: scaled to the box, then moved to the center of mass. */
  digit() {
    const on = [...this.cells.keys()].filter((at) => this.cells[at] > 0);
    if (on.length === 0) return this.cells.slice();
    const rows = on.map((at) => Math.floor(at / SIDE));
    const columns = on.map((at) => at % SIDE);
    const [top, left] = [Math.min(...rows), Math.min(...columns)];
    const [bottom, right] = [Math.max(...rows) + 1, Math.max(...columns) + 1];
    const scale = BOX / Math.max(bottom - top, right - left);
    // What fills the box already is moved by whole cells alone, so that it stays sharp.
    const scaled = scale === 1 ? this.cells : resample(this.cells, (row, column) => [
      (row - SIDE / 2) / scale + (top + bottom) / 2,
      (column - SIDE / 2) / scale + (left + right) / 2,
    ], 1 / scale);
    let [mass, y, x] = [0, 0, 0];
    scaled.forEach((value, at) => {
      mass += value;
      y += value * (Math.floor(at / SIDE) + 0.5);
      x += value * ((at % SIDE) + 0.5);
    });
    const [down, across] = [Math.round(SIDE / 2 - y / mass), Math.round(SIDE / 2 - x / mass)];
    return resample(scaled, (row, column) => [row - down, column - across], 1);
  }

  #follow(events) {
    const box = this.#canvas.getBoundingClientRect();
    const border = this.#canvas.clientLeft;
    const size = this.#canvas.clientWidth;
    for (const event of events) {
      const at = [event.clientX - box.left - border, event.clientY - box.top - border].map((v) => (v / size) * SIDE);
      this.#line(this.#last ?? at, at);
      this.#last = at;
    }
    this.#change();
  }

  #line([x0, y0], [x1, y1]) {
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(x1 - x0, y1 - y0)));
    for (let step = 0; step <= steps; step++) {
      const part = step / steps;
      this.#dot(x0 + part * (x1 - x0), y0 + part * (y1 - y0));
    }
  }

  #dot(x, y) {
    for (let row = Math.floor(y - 2); row <= y + 2; row++) {
      for (let column = Math.floor(x - 2); column <= x + 2; column++) {
        if (row < 0 || row >= SIDE || column < 0 || column >= SIDE) continue;
        const far = Math.hypot(column + 0.5 - x, row + 0.5 - y);
        const value = 255 * Math.min(1, Math.max(0, PEN + 0.5 - far));
        const at = row * SIDE + column;
        this.cells[at] = Math.max(this.cells[at], value);
      }
    }
  }

  #key(event) {
    const moves = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
    const move = moves[event.key];
    if (move) {
      const from = this.#at;
      this.#at = from.map((value, i) => Math.min(SIDE - 1, Math.max(0, value + move[i])));
      if (this.#down) this.#line(from.map((v) => v + 0.5), this.#at.map((v) => v + 0.5));
      this.#said(`Column ${this.#at[0] + 1}, row ${this.#at[1] + 1}${this.#down ? ", drawing" : ""}`);
    } else if (event.key === " ") {
      this.#down = !this.#down;
      if (this.#down) this.#dot(this.#at[0] + 0.5, this.#at[1] + 0.5);
      this.#said(this.#down ? "The pen is down" : "The pen is up");
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
      this.#said("Cleared");
    } else {
      return;
    }
    event.preventDefault();
    this.#change();
  }

  #change() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#paint();
      this.#changed();
    });
  }

  #paint() {
    const context = this.#canvas.getContext("2d");
    const cell = this.#canvas.width / SIDE;
    this.cells.forEach((value, at) => {
      context.fillStyle = `rgb(${value} ${value} ${value})`;
      context.fillRect((at % SIDE) * cell, Math.floor(at / SIDE) * cell, cell, cell);
    });
    if (this.#canvas.matches(":focus-visible")) {
      context.strokeStyle = this.#down ? "#57ab5a" : "#6cb6ff";
      context.lineWidth = 3;
      context.strokeRect(this.#at[0] * cell + 1.5, this.#at[1] * cell + 1.5, cell - 3, cell - 3);
    }
  }
}

/** An image whose cell centers come from elsewhere in another, over squares of `width` cells there, if that is more than one. */
function resample(cells, from, width) {
  const parts = width > 1 ? Math.ceil(2 * width) : 1;
  return cells.map((_, at) => {
    const [y, x] = from(Math.floor(at / SIDE) + 0.5, (at % SIDE) + 0.5);
    let sum = 0;
    for (let part = 0; part < parts * parts; part++) {
      const shift = (index) => ((index + 0.5) / parts - 0.5) * width;
      sum += linear(cells, y + shift(Math.floor(part / parts)), x + shift(part % parts));
    }
    return sum / (parts * parts);
  });
}

/** Between the four cells around a point. */
function linear(cells, y, x) {
  const [row, column] = [Math.floor(y - 0.5), Math.floor(x - 0.5)];
  const [down, across] = [y - 0.5 - row, x - 0.5 - column];
  const value = (r, c) => (r < 0 || r >= SIDE || c < 0 || c >= SIDE ? 0 : cells[r * SIDE + c]);
  const line = (r) => (1 - across) * value(r, column) + across * value(r, column + 1);
  return (1 - down) * line(row) + down * line(row + 1);
}
