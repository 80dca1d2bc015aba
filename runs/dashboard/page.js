"use strict";
// The page: what is chosen is in its address, everything else follows from that and from the data.

const FACETS = ["experiment", "agent", "budget", "seed", "source", "setting"];
const SMOOTH = { 0: "as logged", 0.6: "a little smoothed", 0.9: "smoothed", 0.98: "much smoothed" };
const AXES = { steps: "updates", units: "env steps or episodes", seconds: "seconds of training" };
const MAIN = "main";
const PALETTE = ["#999933", "#CC6677", "#44AA99", "#AA4499", "#6699CC", "#B07A3A"];
const FEW_SEEDS = 6;
const MOST_COMPARED = 12;
const POLL = 2000;

let data = JSON.parse(document.getElementById("data").textContent);
let tag = null; // of the data, as the server names it
let panels = [];
const zooms = new Map();
const opened = new Map();
const images = new Map();

// ---------------------------------------------------------------- what is chosen

/** The choice that the address holds. A facet without a tick shows all. */
function readChoice() {
  const words = new URLSearchParams(location.hash.slice(1));
  return {
    ...Object.fromEntries(FACETS.map((facet) => [facet, new Set(words.getAll(facet))])),
    hidden: new Set(words.getAll("hide")),
    metric: words.get("metric") ?? MAIN,
    axis: words.get("x") in AXES ? words.get("x") : "steps",
    smooth: words.get("smooth") in SMOOTH ? Number(words.get("smooth")) : 0,
    run: words.get("run"),
  };
}

function address(choice) {
  const words = new URLSearchParams();
  for (const facet of FACETS) for (const value of choice[facet]) words.append(facet, value);
  for (const id of choice.hidden) words.append("hide", id);
  if (choice.metric !== MAIN) words.set("metric", choice.metric);
  if (choice.axis !== "steps") words.set("x", choice.axis);
  if (choice.smooth) words.set("smooth", choice.smooth);
  if (choice.run !== null) words.set("run", choice.run);
  return `#${words}`;
}

/** Change the choice: a step in the history when a run is followed or left, none when a filter is set. */
function choose(changes) {
  const before = readChoice();
  const choice = { ...before, ...changes };
  if (choice.run !== before.run) {
    location.hash = address(choice); // which draws
    return;
  }
  history.replaceState(null, "", address(choice));
  draw();
}

function toggled(set, value) {
  const copy = new Set(set);
  if (!copy.delete(value)) copy.add(value);
  return copy;
}

function chosenRuns(choice, except = null) {
  return data.runs.filter((run) => FACETS.every((facet) => facet === except || passes(run, facet, choice[facet])));
}

/** Whether a run has what is ticked of a facet: one of the values; of settings one of each that is named. */
function passes(run, facet, ticked) {
  if (!ticked.size) return true;
  const own = new Set(valuesOf(run, facet));
  if (facet !== "setting") return [...ticked].some((value) => own.has(value));
  const named = new Map();
  for (const value of ticked) {
    const key = value.split("=")[0];
    named.set(key, (named.get(key) ?? false) || own.has(value));
  }
  return [...named.values()].every((found) => found);
}

/** The values of a facet that a run counts under. */
function valuesOf(run, facet) {
  if (facet === "source") return [run.published ? "published" : "yours"];
  if (facet === "setting") return settingsOf(run);
  return [String(run[facet])];
}

const varied = new WeakMap();

/** The settings of a run, as "key=value", that other runs of its agent and budget have otherwise. */
function settingsOf(run) {
  if (!varied.has(data)) {
    const alike = new Map();
    for (const one of data.runs) {
      const key = JSON.stringify([one.experiment, one.agent, one.budget]);
      if (!alike.has(key)) alike.set(key, []);
      alike.get(key).push(one);
    }
    const found = new Map();
    for (const runs of alike.values()) {
      const keys = differing(runs);
      for (const one of runs) found.set(one, keys.filter((key) => key in one.config).map((key) => `${key}=${one.config[key]}`));
    }
    varied.set(data, found);
  }
  return varied.get(data).get(run);
}

// ---------------------------------------------------------------- what things are called

const title = (run) => `${run.experiment} ${run.agent}, ${run.budget}, seed ${run.seed}`;
const spoken = (metric) => metric.replaceAll("_", " ").replace(/(\d+)shot/, "$1 shot");
const metricName = (r) => spoken(r.metric) + (r.shots ? `, ${r.shots} shot` : "");
const time = (stamp) => stamp.replace("T", " ").replace(/([.]\d+)?([+]00:00|Z)$/, " UTC");

/** What an agent is drawn in: the same in all panels, whatever is chosen. */
function look(agent) {
  if (agent in data.colours) return { colour: visible(data.colours[agent]), dash: 0 };
  const others = [...new Set(data.runs.filter((run) => run.learns).map((run) => run.agent))];
  const place = others.filter((name) => !(name in data.colours)).sort().indexOf(agent);
  return { colour: visible(PALETTE[place % PALETTE.length]), dash: Math.floor(place / PALETTE.length) };
}

/** Looks of the lines of a panel, each of its own: an agent's first line has the agent's, the others what is free. */
function looks(agents) {
  const spare = [...PALETTE, ...Object.values(data.colours)].map(visible);
  const used = new Set();
  const found = agents.map((agent, place) => {
    const { colour, dash } = look(agent);
    if (agents.indexOf(agent) < place || used.has(colour)) return null;
    used.add(colour);
    return { colour, dash: DASHES[dash % DASHES.length] };
  });
  return found.map((own, place) => {
    if (own) return own;
    const colour = spare.find((other) => !used.has(other)) ?? spare[place % spare.length];
    used.add(colour);
    return { colour, dash: DASHES[1 + (place % (DASHES.length - 1))] };
  });
}

/** The colour as it is seen best on the paper: on dark paper a little lighter. */
function visible(colour) {
  const share = matchMedia("(prefers-color-scheme: dark)").matches ? 0.25 : 0;
  const parts = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgb(${parts.map((part) => Math.round(part + share * (255 - part))).join(" ")})`;
}

/** The first metric on validation tasks, else the return: what a run is trained for. */
function mainMetric(run) {
  const names = metricsOf(run);
  return names.find((name) => name.startsWith("validation/")) ?? (names.includes("train/return") ? "train/return" : names[0]);
}

const metricsOf = (run) => run.curves.flatMap((curves) => Object.keys(curves.metrics));

/** What tells groups of runs in one place apart, besides the agent: budget and settings, where they differ. */
function labels(groups, withBudget = true) {
  const budgets = new Set(withBudget ? groups.map((group) => group.runs[0].budget) : []);
  return new Map(
    groups.map((group) => {
      const [run] = group.runs;
      const like = groups.filter(({ runs: [other] }) => other.agent === run.agent && other.budget === run.budget);
      const keys = differing(like.map((other) => other.runs[0]));
      // as many as tell it from the others, three at least
      const told = (n) => JSON.stringify(keys.slice(0, n).map((key) => run.config[key] ?? null));
      const twins = (n) => like.filter(({ runs: [other] }) => JSON.stringify(keys.slice(0, n).map((key) => other.config[key] ?? null)) === told(n));
      let enough = Math.min(3, keys.length);
      while (enough < keys.length && twins(enough).length > 1) enough++;
      const settings = keys.slice(0, enough).map((key) => `${key.split(".").pop()} ${run.config[key] ?? "–"}`);
      if (keys.length > enough) settings.push("…");
      return [group.id, [run.agent, ...(budgets.size > 1 ? [run.budget] : []), ...settings].join(", ")];
    }),
  );
}

// ---------------------------------------------------------------- parts of the page

function facets(choice) {
  return FACETS.map((facet) => {
    const counts = new Map();
    for (const run of data.runs) for (const value of valuesOf(run, facet)) counts.set(value, 0);
    if (counts.size < 2 && ["source", "setting"].includes(facet)) return null; // nothing to choose from
    for (const run of chosenRuns(choice, facet)) for (const value of valuesOf(run, facet)) counts.set(value, counts.get(value) + 1);
    const order = new Intl.Collator("en", { numeric: true });
    const values = [...counts.keys()].sort(order.compare);
    const clear = make("button", { type: "button", onclick: () => choose({ [facet]: new Set(), run: null }) }, "show all");
    return make(
      "fieldset",
      { "data-facet": facet },
      make("legend", {}, facet, choice[facet].size ? clear : null),
      make(
        "div",
        { class: "options" },
        values.map((value) =>
          make(
            "label",
            { class: counts.get(value) ? null : "none" },
            make("input", {
              type: "checkbox",
              id: `${facet} ${value}`,
              value,
              checked: choice[facet].has(value),
              onchange: () => choose({ [facet]: toggled(readChoice()[facet], value), run: null }),
            }),
            make("span", {}, value),
            make("span", { class: "count" }, String(counts.get(value))),
          ),
        ),
      ),
    );
  });
}

function choices(choice, runs) {
  const metrics = [...new Set(runs.flatMap(metricsOf))].sort();
  const option = (value, text, selected) => make("option", { value, selected }, text);
  return make(
    "div",
    { class: "choices" },
    make(
      "label",
      {},
      "metric ",
      make(
        "select",
        { id: "metric", onchange: (event) => choose({ metric: event.target.value }) },
        option(MAIN, "validation accuracy or return", choice.metric === MAIN),
        metrics.map((name) => option(name, spoken(name), choice.metric === name)),
      ),
    ),
    make(
      "label",
      {},
      "over ",
      make(
        "select",
        { id: "axis", onchange: (event) => choose({ axis: event.target.value }) },
        Object.entries(AXES).map(([value, text]) => option(value, text, choice.axis === value)),
      ),
    ),
    make(
      "label",
      {},
      make(
        "select",
        { id: "smooth", "aria-label": "smoothing", onchange: (event) => choose({ smooth: Number(event.target.value) }) },
        Object.entries(SMOOTH).map(([value, text]) => option(value, text, choice.smooth === Number(value))),
      ),
    ),
    make("span", { class: "muted" }, "Drag over a panel to zoom, double-click to see all again."),
  );
}

/** One panel of curves: the groups' metric along an axis. */
function panelOf(name, groups, metric, choice) {
  const names = labels(groups);
  const own = looks(groups.map((group) => group.runs[0].agent));
  const lines = [];
  for (const [place, group] of groups.entries()) {
    const drawn = (one) => smoothed(curve(one, metric, choice.axis), choice.smooth);
    const curves = group.counted.map((one) => [one, drawn(one)]).filter(([, found]) => found);
    if (!curves.length) continue;
    const all = group.runs.map(drawn).filter((found) => found);
    lines.push({
      label: names.get(group.id),
      ...own[place],
      seeds: curves.map(([one]) => one.seed),
      total: average(curves.map(([, found]) => found), data.t),
      thin: all.length > 1 && all.length <= FEW_SEEDS ? all : [],
      hidden: choice.hidden.has(group.id),
      toggle: () => choose({ hidden: toggled(readChoice().hidden, group.id) }),
    });
  }
  const units = [...new Set(groups.map((group) => group.runs[0].unit).filter(Boolean))];
  const bounded = metric === "train/return" || metric.includes("accuracy");
  return {
    name,
    xLabel: choice.axis === "units" && units.length === 1 ? units[0] : AXES[choice.axis],
    yLabel: spoken(metric),
    optimum: bounded ? (data.optima[groups[0].runs[0].experiment] ?? null) : null,
    lines,
  };
}

/** Elements of panels, and what draws into them once they stand on the page. */
function panelGrid(found) {
  const grid = make("div", { class: found.length === 1 ? "panels single" : "panels" });
  const later = found.map((panel) => {
    const what = panel.name === panel.yLabel ? [] : [panel.yLabel];
    const about = [...what, ...(panel.optimum === null ? [] : [`optimum ${shown(panel.optimum)} (dashed)`])].join("; ");
    const height = found.length === 1 ? 400 : 230;
    const place = make("div", { style: { minHeight: `${height}px` } }); // so that the page keeps its length meanwhile
    grid.append(
      make(
        "div",
        { class: "panel", "data-name": panel.name },
        make("h3", {}, panel.name),
        make("div", { class: "muted" }, about || "\u00a0"),
        place,
        legend(panel.lines),
      ),
    );
    const key = `${panel.name} ${panel.xLabel}`;
    if (!zooms.has(key)) zooms.set(key, {});
    return () => drawPanel(place, panel, zooms.get(key), height);
  });
  return [grid, () => later.map((paint) => paint())];
}

function curvesSection(choice, runs) {
  const learning = runs.filter((run) => run.learns && run.curves.length);
  const found = [];
  for (const name of new Set(learning.map((run) => run.experiment))) {
    const here = grouped(learning.filter((run) => run.experiment === name));
    const metrics = new Set(choice.metric === MAIN ? here.map((group) => mainMetric(group.runs[0])) : [choice.metric]);
    for (const metric of metrics) {
      const groups = choice.metric === MAIN ? here.filter((group) => mainMetric(group.runs[0]) === metric) : here;
      const panel = panelOf(name, groups, metric, choice);
      if (panel.lines.length) found.push(panel);
    }
  }
  const [grid, paint] = panelGrid(found);
  const about =
    "Lines are means over seeds; bands are the range of two seeds, and the 95% interval (Student's t) of more; thin lines are single seeds.";
  const body = found.length
    ? [make("p", { class: "muted" }, about), grid]
    : [make("p", { class: "empty" }, "None of the chosen runs has logged this. Methods that do not learn have no curves.")];
  return [section("curves", "Learning curves", choices(choice, learning), ...body), paint];
}

function section(id, heading, ...body) {
  return make("section", { id }, make("h2", {}, heading), ...body);
}

const isNumber = (content) => /^-?[\d,.]+(e[-+]?\d+)?$/.test(String(content));

/** A table in a box that scrolls; columns of numbers are aligned to the right. */
function grid(head, rows) {
  const right = head.map((name, column) => rows.some((row) => isNumber(row[column]) || row[column].className === "number"));
  const kind = (column) => (right[column] ? "number" : null);
  const cell = (content, column) =>
    content instanceof Node && content.nodeName === "TD" ? content : make("td", { class: kind(column) }, content);
  return make(
    "div",
    { class: "scroll", tabindex: 0 },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, head.map((name, column) => make("th", { scope: "col", class: kind(column) }, name)))),
      make("tbody", {}, rows.map((row) => make("tr", {}, row.map(cell)))),
    ),
  );
}

const follow = (run, text = title(run)) => make("button", { type: "button", onclick: () => choose({ run: run.name }) }, text);

/** Final numbers: a line for each agent, with what another draw of tasks and another training would change. */
function numbersSection(runs) {
  const rows = [];
  const groups = grouped(runs.filter((run) => run.results.length));
  const names = new Map();
  for (const experiment of new Set(runs.map((run) => run.experiment))) {
    const here = groups.filter((group) => group.runs[0].experiment === experiment);
    for (const [id, name] of labels(here, false)) names.set(id, name);
  }
  for (const group of groups) {
    const cells = new Map(); // numbers of the same kind on the same tasks
    for (const run of group.counted) {
      for (const r of run.results) {
        const key = JSON.stringify([metricName(r), r.task_set]);
        if (!cells.has(key)) cells.set(key, []);
        cells.get(key).push([run, r]);
      }
    }
    for (const found of cells.values()) {
      const [run, r] = found[0];
      const { mean, half } = estimate(found.map(([, one]) => one.mean), data.t);
      const overTasks = estimate(found.map(([, one]) => one.ci95), data.t).mean;
      rows.push([
        run.experiment,
        names.get(group.id),
        run.budget,
        metricName(r),
        shown(mean),
        shown(overTasks, 2),
        shown(half, 2),
        found.map(([one]) => one.seed).join(", "),
        shown(r.n),
      ]);
    }
  }
  if (!rows.length) return null;
  const head = ["experiment", "agent", "budget", "number", "mean", "± over tasks", "± over seeds", "seeds", "tasks"];
  const about =
    "Measured on the frozen test tasks, with two 95% intervals. Over tasks: what another draw of test tasks would change, " +
    "the agents staying as they are. Over seeds: what training again would change; that takes at least two seeds to tell.";
  return section("numbers", "Final numbers", make("p", { class: "muted" }, about), grid(head, rows));
}

function state(run) {
  if (run.finished) return make("td", {}, make("span", { class: "done" }, "finished"));
  const done = run.of ? `${shown(run.steps)} of ${shown(Number(run.of))} updates` : `${shown(run.steps)} updates`;
  return make("td", {}, `unfinished, ${done}`);
}

const finals = (run) => run.results.map((r) => `${metricName(r)} ${shown(r.mean)} ± ${shown(r.ci95, 2)}`).join("; ");

function runsSection(runs) {
  const rows = runs.map((run) => [
    make("td", {}, follow(run)),
    state(run),
    finals(run) || "–",
    run.published ? "published" : "yours",
    time(run.record.finished ?? run.logged),
  ]);
  const about = "A click follows one run. Intervals are over test tasks, at 95%.";
  return section(
    "runs",
    `Runs (${runs.length})`,
    make("p", { class: "muted" }, about),
    grid(["run", "state", "test", "record", "last written"], rows),
  );
}

function throughputSection(runs) {
  const found = runs.filter((run) => run.learns && run.units && run.seconds);
  if (!found.length) return null;
  const rate = (run) => run.units / run.seconds;
  const fastest = (unit) => Math.max(...found.filter((run) => run.unit === unit).map(rate));
  const rows = found.map((run) => [
    make("td", {}, follow(run)),
    make("td", { class: "number" }, `${shown(rate(run), 3)} ${run.unit}/s`),
    make("td", { class: "barred" }, make("span", { class: "bar", style: { width: `${(100 * rate(run)) / fastest(run.unit)}%` } })),
    shown(run.units),
    shown(Math.round(run.seconds)),
    make("td", {}, run.record.device ?? "–"),
    run.record.threads === undefined ? "–" : String(run.record.threads),
  ]);
  const head = ["run", "throughput", "", "trained on", "seconds", "device", "threads"];
  const about = "Over the whole training, of agents that learn; a bar is full for the fastest of the chosen runs that counts in its unit.";
  return section("throughput", "Throughput", make("p", { class: "muted" }, about), grid(head, rows));
}

function settingsSection(runs) {
  let body;
  if (runs.length < 2) return null;
  if (runs.length > MOST_COMPARED) {
    body = make("p", { class: "empty" }, `Choose up to ${MOST_COMPARED} runs by the filters to see their settings side by side; now it is ${runs.length}.`);
  } else {
    const keys = differing(runs);
    const rows = keys.map((key) => [
      make("td", {}, key),
      ...runs.map((run) => make("td", { class: "wrap" }, run.config[key] === undefined ? "–" : String(run.config[key]))),
    ]);
    const head = ["setting", ...runs.map((run) => `${run.experiment} ${run.agent} ${run.budget} seed ${run.seed}`)];
    body = keys.length ? grid(head, rows) : make("p", { class: "empty" }, "These runs have the same settings but for what their names say.");
  }
  return section("settings", "Settings that differ", body);
}

/** A picture; the same element as the last time, which need not be decoded again. */
function image(source, alt) {
  if (!images.has(source)) images.set(source, make("img", { src: source, alt, loading: "lazy", decoding: "async" }));
  return images.get(source);
}

function figures(run) {
  return run.pictures.map((picture) =>
    make(
      "figure",
      {},
      make("figcaption", {}, `${title(run)}: ${picture.name}`),
      picture.source
        ? image(picture.source, `${title(run)}: ${picture.name}`)
        : make("p", { class: "muted" }, "too big for this page, or damaged; it lies at ", make("span", { class: "path" }, picture.link)),
    ),
  );
}

function picturesSection(runs) {
  const all = runs.flatMap(figures);
  if (!all.length) return null;
  const about = make("p", { class: "muted" }, "What trained models look at; ", make("code", {}, "snail attention RUN"), " draws it.");
  return section("attention", "Attention", about, make("div", { class: "pictures" }, all));
}

function tablesSection() {
  const all = data.tables.map((table, number) => {
    const box = make("div", { class: "scroll", tabindex: 0 });
    box.innerHTML = table.html; // made by the program, which escapes what it puts in
    const key = `table ${table.name}`;
    const details = make("details", { open: opened.get(key) ?? number === 0 }, make("summary", {}, `Table ${table.name}: ${table.title}`), box);
    details.addEventListener("toggle", () => opened.set(key, details.open));
    return details;
  });
  const about = "Beside the papers' numbers; of all runs, whatever the filters say.";
  return section("tables", "Tables", make("p", { class: "muted" }, about), ...all);
}

// ---------------------------------------------------------------- one run

function pairs(values) {
  return grid(["name", "value"], Object.entries(values).map(([key, value]) => [make("td", {}, key), make("td", { class: "wrap" }, String(value))]));
}

function runPage(choice, run) {
  const back = make("button", { type: "button", class: "back", onclick: () => choose({ run: null }) }, "← all runs");
  if (!run) return [[back, make("p", { class: "empty" }, `There is no run ${choice.run} here.`)], () => []];
  const found = [...new Set(metricsOf(run))]
    .sort((a, b) => (b === mainMetric(run)) - (a === mainMetric(run)))
    .map((metric) => ({ ...panelOf(spoken(metric), grouped([run]), metric, { ...choice, hidden: new Set() }) }));
  const [panelsOf, paint] = panelGrid(found.filter((panel) => panel.lines.length));
  const folder = data.live
    ? make("span", { class: "path" }, run.link)
    : make("a", { class: "path", href: run.link.split("/").map(encodeURIComponent).join("/") }, run.link);
  const unit = run.units && run.seconds ? `, ${shown(run.units / run.seconds, 3)} ${run.unit} per second` : "";
  const parts = [
    back,
    section(
      "run",
      title(run),
      make("p", {}, ...state(run).childNodes, run.seconds ? `, ${shown(Math.round(run.seconds))} s of training${unit}` : "", ", folder ", folder),
      run.results.length
        ? grid(
            ["number", "mean", "± over tasks (95%)", "tasks", "task set"],
            run.results.map((r) => [metricName(r), shown(r.mean), shown(r.ci95, 2), shown(r.n), make("td", {}, r.task_set ?? "–")]),
          )
        : make("p", { class: "empty" }, "Its numbers are measured when it is finished."),
    ),
    run.learns && run.curves.length ? section("curves", "Curves", choicesOfRun(choice), panelsOf) : null,
    run.pictures.length ? section("attention", "Attention", make("div", { class: "pictures" }, figures(run))) : null,
    make("div", { class: "split" }, section("config", "Settings", pairs(run.config)), run.finished ? section("record", "Record", pairs(run.record)) : null),
  ];
  return [parts, paint];
}

function choicesOfRun(choice) {
  const box = choices(choice, []);
  box.querySelector("#metric").parentNode.remove(); // all of them are there
  return box;
}

// ---------------------------------------------------------------- the whole

function draw() {
  const choice = readChoice();
  const focus = document.activeElement?.id || null;
  const place = (box) =>
    box.closest("fieldset")?.dataset.facet ?? box.closest("details")?.firstChild.textContent ?? box.closest("section").id;
  const boxes = () => document.querySelectorAll(".options, .scroll");
  const scrolled = new Map([...boxes()].map((box) => [place(box), [box.scrollLeft, box.scrollTop]]));
  panels.forEach((panel) => panel.destroy());
  document.getElementById("facets").replaceChildren(...facets(choice).filter((facet) => facet));
  const unfinished = data.runs.filter((run) => !run.finished).length;
  document.getElementById("summary").textContent =
    `${data.runs.length} runs, ${unfinished ? `${unfinished} of them unfinished` : "all finished"}; read ${time(data.made)}`;
  const warnings = document.getElementById("warnings");
  warnings.hidden = !data.warnings.length;
  warnings.replaceChildren(make("ul", {}, data.warnings.map((line) => make("li", {}, line))));
  let parts, paint;
  if (choice.run !== null) {
    [parts, paint] = runPage(choice, data.runs.find((run) => run.name === choice.run));
  } else {
    const runs = chosenRuns(choice);
    const [curves, painter] = curvesSection(choice, runs);
    paint = painter;
    parts = [
      curves,
      numbersSection(runs),
      tablesSection(),
      runsSection(runs),
      settingsSection(runs),
      throughputSection(runs),
      picturesSection(runs),
    ];
  }
  parts = parts.filter((part) => part);
  document.querySelector("main").replaceChildren(...parts);
  document.getElementById("contents").replaceChildren(
    ...[...document.querySelectorAll("main section")].map((s) =>
      make("button", { type: "button", onclick: () => s.scrollIntoView() }, s.querySelector("h2").textContent),
    ),
  );
  panels = paint();
  for (const box of boxes()) box.scrollTo(...(scrolled.get(place(box)) ?? [0, 0]));
  if (focus) document.getElementById(focus)?.focus({ preventScroll: true }); // a keyboard goes on where it was
}

/** Ask the server for news; what is chosen stays, for it is in the address. */
async function poll() {
  const status = document.getElementById("live");
  try {
    if (!document.hidden) {
      const answer = await fetch("data.json", { headers: tag ? { "If-None-Match": tag } : {} });
      if (answer.status === 200) {
        const fresh = await answer.json();
        const first = tag === null;
        tag = answer.headers.get("ETag");
        if (!first || fresh.made !== data.made) {
          data = fresh;
          draw();
        }
      }
      status.textContent = "live";
    }
  } catch {
    status.textContent = "the server has stopped; what you see is its last word";
  }
  setTimeout(poll, POLL);
}

draw();
addEventListener("hashchange", () => {
  draw();
  if (readChoice().run !== null) scrollTo(0, 0);
});
let wide = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== wide) panels.forEach((panel) => panel.resize());
  wide = innerWidth;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
if (matchMedia("(max-width: 60rem)").matches) document.getElementById("filters").open = false;
if (data.live) {
  document.getElementById("live").hidden = false;
  poll();
}
performance.mark("drawn");
