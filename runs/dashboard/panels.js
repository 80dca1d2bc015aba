"use strict";
// A panel: lines with bands over seeds, drawn on uPlot's axes, with a tooltip and a legend.

const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];

/** A number as a reader wants it: four significant digits, thousands apart. */
function shown(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  if (size > 0 && size < 1e-4) return value.toExponential(digits - 1);
  return value.toPrecision(digits);
}

/** The tick of an axis, short. */
function tick(value) {
  if (value === null) return "";
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(4)}k`;
  return size > 0 && size < 1e-3 ? value.toExponential(0) : `${+value.toPrecision(6)}`;
}

/** An element with attributes and children; text stays text, whatever it holds. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A piece of line in a colour and dash pattern, for legends. */
function swatch(line) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "line");
  const set = (element, values) => Object.entries(values).forEach(([k, v]) => element.setAttribute(k, v));
  set(svg, { width: 26, height: 10, "aria-hidden": "true" });
  set(path, { x1: 1, x2: 25, y1: 5, y2: 5, stroke: line.colour, "stroke-width": 2.5 });
  path.setAttribute("stroke-dasharray", line.dash.join(" "));
  svg.append(path);
  return svg;
}

/** Index of the value in increasing `x` that is nearest to `value`. */
function nearest(x, value) {
  let low = 0;
  let high = x.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x[middle] <= value) low = middle;
    else high = middle;
  }
  return Math.abs(x[low] - value) <= Math.abs(x[high] - value) ? low : high;
}

function cssColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/**
 * Draw a panel into `parent`.
 *
 * panel: {name, xLabel, yLabel, optimum, lines}; a line is {label, colour, dash, seeds, total, thin, hidden, toggle}, with
 * `total` an average as from `average` or null, and `thin` single seeds' {x, y}. zoom: {x}, kept by the caller.
 */
function drawPanel(parent, panel, zoom, height) {
  const lines = panel.lines.filter((line) => !line.hidden);
  const range = rangeOfX(panel.lines);
  const place = make("div", { class: "plot", role: "img", "aria-label": `${panel.name}: ${panel.yLabel} over ${panel.xLabel}` });
  const tip = make("div", { class: "tip", hidden: true });
  const dot = make("div", { class: "dot", hidden: true });
  parent.append(place);
  const ink = cssColour("--muted");
  const grid = { stroke: cssColour("--grid"), width: 1 };
  const axis = { stroke: ink, grid, ticks: grid, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif" };
  let seen = rangeOfY(lines, range, panel.optimum);
  const plot = new uPlot(
    {
      width: Math.max(260, place.clientWidth),
      height,
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, dist: 5 } },
      scales: { x: { time: false }, y: { range: () => seen } },
      // the frame is uPlot's and what is inside is ours: its series must share their x, ours do not
      series: [{}, { paths: () => null, points: { show: false } }],
      axes: [
        { ...axis, label: panel.xLabel, labelSize: 20, size: 34, values: (u, all) => all.map(tick), space: 70 },
        { ...axis, size: 56, values: (u, all) => all.map(tick) },
      ],
      hooks: {
        draw: [(u) => paint(u, lines, panel.optimum)],
        setScale: [
          (u, key) => {
            if (key !== "x") return;
            const { min, max } = u.scales.x;
            zoom.x = min > range[0] || max < range[1] ? [min, max] : null;
            seen = rangeOfY(lines, [min, max], panel.optimum);
            // later, for uPlot forgets what is asked of it while it sets a scale
            queueMicrotask(() => u.setScale("y", { min: seen[0], max: seen[1] }));
          },
        ],
        setCursor: [(u) => point(u, lines, panel, tip, dot)],
      },
    },
    [range, seen],
    place,
  );
  plot.over.append(dot, tip);
  if (zoom.x) plot.setScale("x", { min: zoom.x[0], max: zoom.x[1] });
  return { resize: () => plot.setSize({ width: Math.max(260, place.clientWidth), height }), destroy: () => plot.destroy() };
}

function rangeOfX(lines) {
  let low = Infinity;
  let high = -Infinity;
  for (const line of lines) {
    for (const { x } of [...line.thin, ...(line.total ? [line.total] : [])]) {
      low = Math.min(low, x[0]);
      high = Math.max(high, x[x.length - 1]);
    }
  }
  if (!(low <= high)) return [0, 1];
  return low === high ? [low - 1, high + 1] : [Math.min(low, 0), high];
}

/** From the lowest to the highest of what is seen between two positions, with some air; the optimum too, if it is near. */
function rangeOfY(lines, [from, to], optimum) {
  let low = Infinity;
  let high = -Infinity;
  const see = (x, y, half) => {
    for (let i = 0; i < x.length; i++) {
      if (x[i] < from || x[i] > to) continue;
      const h = half && Number.isFinite(half[i]) ? half[i] : 0;
      if (y[i] - h < low) low = y[i] - h;
      if (y[i] + h > high) high = y[i] + h;
    }
  };
  for (const line of lines) {
    if (line.total) see(line.total.x, line.total.mean, line.total.half);
    for (const { x, y } of line.thin) see(x, y);
  }
  if (!(low <= high)) return [0, 1];
  // the optimum, too, unless that would squeeze the curves
  if (optimum !== null && Math.abs(optimum - (low + high) / 2) <= high - low) {
    low = Math.min(low, optimum);
    high = Math.max(high, optimum);
  }
  const air = 0.05 * (high - low) || Math.abs(high) * 0.05 || 1;
  return [low - air, high + air];
}

/** Bands first, then single seeds, then means, so that no line hides under a band. */
function paint(u, lines, optimum) {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  const px = (v) => u.valToPos(v, "x", true);
  const py = (v) => u.valToPos(v, "y", true);
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  if (optimum !== null) {
    ctx.strokeStyle = cssColour("--muted");
    ctx.lineWidth = ratio;
    ctx.setLineDash([5 * ratio, 4 * ratio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, py(optimum));
    ctx.lineTo(bbox.left + bbox.width, py(optimum));
    ctx.stroke();
  }
  ctx.setLineDash([]);
  for (const line of lines) {
    if (!line.total?.half) continue;
    const { x, mean, half } = line.total;
    ctx.fillStyle = line.colour;
    ctx.globalAlpha = 0.17;
    ctx.beginPath();
    for (let i = 0; i < x.length; i++) ctx.lineTo(px(x[i]), py(mean[i] + half[i]));
    for (let i = x.length - 1; i >= 0; i--) ctx.lineTo(px(x[i]), py(mean[i] - half[i]));
    ctx.fill();
  }
  ctx.lineJoin = "round";
  for (const line of lines) {
    ctx.strokeStyle = ctx.fillStyle = line.colour;
    ctx.setLineDash(line.dash.map((d) => d * ratio));
    ctx.globalAlpha = 0.35;
    ctx.lineWidth = 0.8 * ratio;
    for (const { x, y } of line.thin) stroke(ctx, x, y, px, py, bbox);
    ctx.globalAlpha = 1;
    ctx.lineWidth = 1.8 * ratio;
    if (!line.total) continue;
    if (line.total.x.length > 1) {
      stroke(ctx, line.total.x, line.total.mean, px, py, bbox);
    } else {
      ctx.beginPath();
      ctx.arc(px(line.total.x[0]), py(line.total.mean[0]), 3 * ratio, 0, 7);
      ctx.fill();
    }
  }
  ctx.restore();
}

/** A line through points; of those in one column of pixels the first, lowest, highest and last. */
function stroke(ctx, x, y, px, py, bbox) {
  ctx.beginPath();
  let column = null;
  let low, high, last;
  const leave = () => {
    if (column === null || low === high) return;
    ctx.lineTo(column, low);
    ctx.lineTo(column, high);
    ctx.lineTo(column, last);
  };
  for (let i = 0; i < x.length; i++) {
    const at = Math.round(px(x[i]));
    const height = py(y[i]);
    if (at === column) {
      low = Math.min(low, height);
      high = Math.max(high, height);
    } else {
      leave();
      ctx.lineTo(at, height);
      column = at;
      low = high = height;
    }
    last = height;
  }
  leave();
  ctx.stroke();
}

/** Show the point of a line that is nearest to the mouse, with its numbers. */
function point(u, lines, panel, tip, dot) {
  const { left, top } = u.cursor;
  let best = null;
  if (left >= 0 && top >= 0) {
    const at = u.posToVal(left, "x");
    for (const line of lines) {
      if (!line.total) continue;
      let i = nearest(line.total.x, at);
      if (line.total.x[i] > u.scales.x.max) i--; // its neighbour is still in sight, perhaps
      else if (line.total.x[i] < u.scales.x.min) i++;
      if (!(i in line.total.x)) continue;
      const x = u.valToPos(line.total.x[i], "x");
      const y = u.valToPos(line.total.mean[i], "y");
      const distance = Math.hypot(x - left, y - top);
      if (x >= 0 && x <= u.over.clientWidth && (!best || distance < best.distance)) best = { line, i, x, y, distance };
    }
  }
  tip.hidden = dot.hidden = !best;
  if (!best) return;
  const { line, i, x, y } = best;
  const { total, seeds } = line;
  const half = total.half ? total.half[i] : NaN;
  const over = seeds.length > 1 ? `${seeds.length === 2 ? "range" : "95%"} over ${seeds.length} seeds: ${seeds.join(", ")}` : `seed ${seeds[0]}`;
  tip.replaceChildren(
    make("div", { class: "who" }, swatch(line), line.label),
    make("div", {}, `${panel.xLabel}: ${shown(total.x[i], 5)}`),
    make("div", {}, `${panel.yLabel}: `, make("b", {}, shown(total.mean[i])), Number.isFinite(half) ? ` ± ${shown(half, 2)}` : ""),
    make("div", { class: "muted" }, over),
  );
  Object.assign(dot.style, { left: `${x}px`, top: `${y}px`, background: line.colour });
  const wide = tip.offsetWidth;
  const beside = x + 12 + wide > u.over.clientWidth ? Math.max(0, x - 12 - wide) : x + 12;
  Object.assign(tip.style, { left: `${beside}px`, top: `${Math.max(0, Math.min(y - 20, u.over.clientHeight - tip.offsetHeight))}px` });
}

/** The names of the lines; a click hides one or shows it again. */
function legend(lines) {
  return make(
    "div",
    { class: "legend" },
    lines.map((line) =>
      make(
        "button",
        { type: "button", "aria-pressed": String(!line.hidden), title: "hide or show", onclick: line.toggle },
        swatch(line),
        make("span", {}, line.label, line.seeds.length > 1 ? ` (${line.seeds.length} seeds)` : ""),
      ),
    ),
  );
}
