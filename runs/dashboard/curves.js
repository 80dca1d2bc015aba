"use strict";
// Curves of runs as arrays, and what several seeds have in common. Nothing here touches the page.

/** Little-endian single precision in base64, as Python leaves it. */
function decode(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Float32Array(bytes.buffer);
}

/** A metric of a run along an axis (steps, units or seconds): {x, y}, or null where it was not logged. */
function curve(run, metric, axis) {
  run.decoded ??= new Map();
  const key = `${axis} ${metric}`;
  if (!run.decoded.has(key)) {
    const found = run.curves.find((c) => metric in c.metrics && axis in c.x);
    let made = null;
    if (found) {
      const x = decode(found.x[axis]);
      const y = decode(found.metrics[metric]);
      const whole = [...y.keys()].filter((i) => Number.isFinite(x[i]) && Number.isFinite(y[i]));
      made = whole.length === y.length ? { x, y } : { x: whole.map((i) => x[i]), y: whole.map((i) => y[i]) };
    }
    run.decoded.set(key, made && made.x.length ? made : null);
  }
  return run.decoded.get(key);
}

/** A curve as an exponential moving average, freed of its bias towards the start; share 0: as it is. */
function smoothed(found, share) {
  if (!found || !share) return found;
  let sum = 0;
  let weight = 0;
  const y = Float64Array.from(found.y, (value) => {
    sum = share * sum + (1 - share) * value;
    weight = share * weight + (1 - share);
    return sum / weight;
  });
  return { x: found.x, y };
}

/** Values of a curve at the increasing positions `at`, all inside its range, on straight lines between its points. */
function interpolate({ x, y }, at) {
  const values = new Float64Array(at.length);
  let i = 0;
  for (let k = 0; k < at.length; k++) {
    while (i + 1 < x.length && x[i + 1] <= at[k]) i++;
    const share = i + 1 < x.length && at[k] > x[i] ? (at[k] - x[i]) / (x[i + 1] - x[i]) : 0;
    values[k] = share ? y[i] + share * (y[i + 1] - y[i]) : y[i];
  }
  return values;
}

/** Mean of numbers and the half-width of Student's 95% interval for it, NaN for a single one; t[k]: of k + 1 degrees. */
function estimate(values, t) {
  const n = values.length;
  const mean = values.reduce((a, b) => a + b, 0) / n;
  if (n < 2) return { mean, half: NaN };
  const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1);
  return { mean, half: t[n - 2] * Math.sqrt(variance / n) };
}

/**
 * The mean of several seeds' curves, and its interval, at all positions that any of them was logged at and that lie
 * within the range of all: {x, mean, half}. Null where they share no range.
 */
function average(curves, t) {
  if (curves.length === 1) return { x: curves[0].x, mean: curves[0].y, half: null };
  const from = Math.max(...curves.map((c) => c.x[0]));
  const to = Math.min(...curves.map((c) => c.x[c.x.length - 1]));
  const inside = new Set();
  for (const c of curves) for (const x of c.x) if (x >= from && x <= to) inside.add(x);
  if (!inside.size) return null;
  const x = Float64Array.from(inside).sort();
  const columns = curves.map((c) => interpolate(c, x));
  const mean = new Float64Array(x.length);
  const half = new Float64Array(x.length);
  for (let k = 0; k < x.length; k++) {
    const e = estimate(columns.map((column) => column[k]), t);
    mean[k] = e.mean;
    // of two, their range: Student's interval would be six times as wide, and stretch the axis
    half[k] = columns.length === 2 ? Math.abs(columns[0][k] - columns[1][k]) / 2 : e.half;
  }
  return { x, mean, half };
}

/** Runs that differ in nothing but their seed, as lists; of a seed that was run twice, the first is `counted`. */
function grouped(runs) {
  const groups = new Map();
  for (const run of runs) {
    if (!groups.has(run.settings)) groups.set(run.settings, { id: run.settings, runs: [], counted: [] });
    const group = groups.get(run.settings);
    if (!group.runs.some((other) => other.seed === run.seed)) group.counted.push(run);
    group.runs.push(run);
  }
  return [...groups.values()];
}

/** The settings that are not the same in all of these runs. */
function differing(runs) {
  const keys = new Set(runs.flatMap((run) => Object.keys(run.config)));
  return [...keys].filter((key) => new Set(runs.map((run) => JSON.stringify(run.config[key]))).size > 1);
}
