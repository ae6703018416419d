"use strict";
/* The script of a report. All recorded text is untrusted and reaches the page through textContent alone (`el`, and
   Tabulator's formatters, which return elements). Views are named by the hash, so every one of them has a link:
   #/BOARD/leaderboard, #/BOARD/plots, #/BOARD/questions?run=A&..., #/BOARD/episode/RUN/QUESTION/STEP */

const $ = (id) => document.getElementById(id);
const main = $("main");
const state = { content: null, board: null, table: null, list: [], blobs: new Map() };

// -- elements ---------------------------------------------------------------------------------------------------------

/** Return an element. Properties are set as attributes, functions as listeners; children are elements or text. */
function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const number = (value, digits = 3) => (value === null || value === undefined ? "" : value.toFixed(digits));
const signed = (value, digits = 3) => (value > 0 ? "+" : value < 0 ? "−" : "±") + Math.abs(value).toFixed(digits);
const whole = (value) => (value === null || value === undefined ? "" : Math.round(value).toLocaleString("en-US"));
const pValue = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));

function choice(label, options, value, onChange) {
  const select = el("select", { change: (event) => onChange(event.target.value) });
  for (const [key, text] of options) select.append(el("option", { value: key, selected: key === value }, text));
  return el("label", { class: "field" }, el("span", {}, label), select);
}

// -- what happened in an episode --------------------------------------------------------------------------------------

const VERDICTS = { right: "right", wrong: "wrong", truncated: "out of searches", no_action: "no action", failed: "failed", missing: "not run" };

function verdict(episode) {
  if (!episode) return "missing";
  if (episode.error !== null) return "failed";
  if (episode.scores[state.board.metric] === 1) return "right";
  if (episode.stop === "no_action") return "no_action";
  return episode.stop === "search_budget" && episode.answer === null ? "truncated" : "wrong";
}

const MARKS = { right: "✓", wrong: "✗", truncated: "⧖", no_action: "?", failed: "!", missing: "–" };

function badge(episode) {
  const kind = verdict(episode);
  return el("span", { class: `badge ${kind}` }, `${MARKS[kind]} ${VERDICTS[kind]}`);
}

/** Everything that a text search looks through: question, answers, queries, passage titles, model text. */
function blob(run, index) {
  const key = `${state.board.index}/${run}/${index}`;
  if (!state.blobs.has(key)) {
    const task = state.board.tasks[index], episode = state.board.runs[run].episodes[index];
    const parts = [task.id, task.question, ...task.options, ...task.answers];
    if (episode) {
      parts.push(episode.answer, episode.output, episode.error);
      for (const step of episode.steps) {
        parts.push(step.q, step.a, step.d, step.t);
        for (const passage of step.p ?? []) parts.push(...state.content.passages[passage].slice(1));
      }
    }
    state.blobs.set(key, parts.filter(Boolean).join("\n").toLowerCase());
  }
  return state.blobs.get(key);
}

// -- routes -----------------------------------------------------------------------------------------------------------

function link(view, ...rest) {
  return "#/" + [state.board.index, view, ...rest].map((part) => encodeURIComponent(part)).join("/");
}

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [board, view = "leaderboard", ...rest] = path.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  state.board = state.content.boards[Number(board)] ?? state.content.boards[0];
  if (!state.board) {
    main.replaceChildren(el("p", {}, "The report holds no run."));
    return;
  }
  $("board").value = state.board.index;
  for (const anchor of document.querySelectorAll("nav a")) {
    anchor.href = link(anchor.dataset.view);
    const current = anchor.dataset.view === view || (view === "episode" && anchor.dataset.view === "questions");
    if (current) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  const views = { leaderboard: showLeaderboard, plots: showPlots, questions: showQuestions, episode: showEpisode };
  state.table?.destroy();
  state.table = null;
  main.replaceChildren();
  main.className = view;
  (views[view] ?? showLeaderboard)(rest, new URLSearchParams(query));
}

/** Return a table that a keyboard and a screen reader can use: Tabulator gives headers no focus, and its rows no parent. */
function grid(holder, options) {
  const made = new Tabulator(holder, options);
  made.on("tableBuilt", () => {
    holder.removeAttribute("aria-owns");
    holder.querySelector(".tabulator-tableholder").setAttribute("role", "rowgroup");
    holder.querySelector(".tabulator-table").setAttribute("role", "presentation");
    for (const head of holder.querySelectorAll(".tabulator-sortable")) {
      head.tabIndex = 0;
      head.addEventListener("keydown", (event) => { if (event.key === "Enter") head.click(); });
    }
  });
  return made;
}

// -- leaderboard ------------------------------------------------------------------------------------------------------

function interval([mean, low, high]) {
  const cell = el("span", { class: "figure" }, number(mean));
  if (low !== null) cell.append(el("small", {}, `${number(low)} – ${number(high)}`));
  return cell;
}

function showLeaderboard() {
  const board = state.board;
  const column = (title, field, format, extra = {}) => ({
    title, field, hozAlign: "right", headerHozAlign: "right", sorter: "number", headerSortStartingDir: "desc",
    formatter: (cell) => (cell.getValue() === null || cell.getValue() === undefined ? "" : format(cell.getValue(), cell.getData())), ...extra,
  });
  const columns = [
    { title: "#", field: "place", sorter: "number", width: 52, hozAlign: "right", formatter: (cell) => String(cell.getValue() ?? "") },
    { title: "Policy", field: "policy", minWidth: 180, formatter: (cell) => policyCell(cell.getData()) },
    ...Object.entries(board.metrics).map(([name, title]) =>
      column(name === board.metric ? `${title} ★` : title, `means.${name}`, (_, row) => interval(row.metrics[name]), { minWidth: 112 })),
    column("Searches", "searches", (value) => number(value, 2)),
    ...(board.rows.some((row) => row.tokens) ? [column("Tokens", "tokens", whole)] : []),
    ...(board.rows.some((row) => row.cost !== null) ? [column("Cost, $", "cost", (value) => number(value, 4))] : []),
    column("Latency, s", "seconds", (value) => number(value, 2), { minWidth: 108 }),
    column("Scored", "scored", scoredText, { headerSort: false, minWidth: 90 }),
  ];
  const rows = board.rows.map((row) => ({
    ...row,
    means: Object.fromEntries(Object.entries(row.metrics).map(([name, figure]) => [name, figure[0]])),
    seconds: row.run === null ? null : meanOf(board.runs[row.run].episodes, (episode) => episode.seconds),
  }));
  const holder = el("div", { id: "leaderboard-table" });
  const settings = new Set(board.rows.filter((row) => row.setting && !row.cited).map((row) => row.setting));
  main.append(
    el("h2", {}, `${board.environment}, ${board.split} split, ${whole(board.questions)} questions`),
    holder,
    el("p", { class: "note" },
      `Ranked by ${board.metrics[board.metric] ?? board.metric} (★), with 95 % bootstrap intervals, or Wilson's where every score is 0 or every score is 1. `,
      settings.size === 1 ? `Setting: ${[...settings][0]}. ` : "",
      "Runs in which not every question is scored are not ranked. Latency is the wall time of an episode while others ran beside it. ",
      board.rows.some((row) => row.cited) ? `Rows marked as cited are published results; they are not ranked. ${board.differences}` : ""),
    pairView());
  state.table = grid(holder, {
    data: rows, columns, layout: "fitColumns", responsiveLayout: false, columnHeaderVertAlign: "bottom", headerSortTristate: true,
    rowFormatter: (row) => row.getElement().classList.toggle("cited", row.getData().cited),
  });
}

function meanOf(episodes, value) {
  const values = episodes.filter(Boolean).map(value);
  return values.length ? values.reduce((sum, next) => sum + next, 0) / values.length : null;
}

function scoredText(scored, row) {
  const notes = [`${whole(scored)} / ${whole(row.questions)}`];
  if (row.no_action) notes.push(`${whole(row.no_action)} no action`);
  if (row.failed) notes.push(`${whole(row.failed)} failed`);
  if (row.missing) notes.push(`${whole(row.missing)} not run`);
  return el("span", { title: notes.join(", ") }, notes[0], notes.length > 1 ? el("small", {}, notes.slice(1).join(", ")) : null);
}

function policyCell(row) {
  const name = row.run === null ? el("span", {}, row.policy) : el("a", { href: `${link("questions")}?a=${encodeURIComponent(row.run)}` }, row.policy);
  const several = new Set(state.board.rows.filter((other) => other.setting && !other.cited).map((other) => other.setting)).size > 1;
  return el("span", { class: "policy", title: row.source }, name,
    row.cited ? el("small", {}, el("b", { class: "pill" }, "cited"), ` ${[row.source, row.setting].filter(Boolean).join("; ")}`) : several && row.setting ? el("small", {}, row.setting) : null);
}

function runChoice(label, value, onChange, extra = []) {
  const runs = Object.entries(state.board.runs).map(([name, run]) => [name, run.label === name ? name : `${run.label} · ${name}`]);
  return choice(label, [...extra, ...runs], value, onChange);
}

function pairView() {
  const names = Object.keys(state.board.runs);
  if (!state.board.pairs.length) return "";
  const ranked = state.board.rows.filter((row) => row.run !== null).map((row) => row.run);
  let [first, second] = [ranked[1], ranked[0]];
  const box = el("div", {});
  const draw = () => {
    const pair = state.board.pairs.find(({ runs }) => runs.includes(first) && runs.includes(second) && first !== second);
    box.replaceChildren(pair ? pairTable(pair, pair.runs[0] === first ? 1 : -1) : el("p", { class: "note" },
      first === second ? "Choose two different runs." : "Only differences to the best run are in this report, since it has many runs."));
  };
  draw();
  return el("section", { class: "card", "aria-label": "Paired difference" }, el("h3", {}, "Paired difference"),
    el("div", { class: "filters" }, runChoice("From", first, (value) => { first = value; draw(); }), runChoice("to", second, (value) => { second = value; draw(); })),
    box, names.length > 8 ? el("p", { class: "note" }, "Each run is paired with the best one.") : "");
}

function pairTable(pair, sign) {
  const row = (title, first, second, { difference: [mean, low, high], p_value: p = 0 }) => {
    const [bottom, top] = sign > 0 ? [low, high] : [-high, -low];
    const clear = p >= 0.05 ? "" : bottom > 0 ? "gain" : top < 0 ? "loss" : "";
    return el("tr", {}, el("th", { scope: "row" }, title), ...(sign > 0 ? [first, second] : [second, first]).map((value) => el("td", {}, number(value))),
      el("td", { class: clear }, `${signed(sign * mean)} [${signed(bottom)}, ${signed(top)}]`));
  };
  const body = pair.differences.map((part) => {
    const line = row(state.board.metrics[part.metric] ?? part.metric, part.first, part.second, part);
    const [wins, losses] = sign > 0 ? [part.wins, part.losses] : [part.losses, part.wins];
    line.append(el("td", {}, pValue(part.p_value)), el("td", {}, part.mcnemar === null ? "" : pValue(part.mcnemar)),
      el("td", {}, `${wins} / ${part.ties} / ${losses}`));
    return line;
  });
  const heads = ["", "from", "to", "difference [95 %]", "p", "McNemar", "wins / ties / losses"];
  const groups = pair.groups.map((group) => row(`${group.field} ${group.value} (${group.questions})`, group.first, group.second, group));
  const [first, second] = sign > 0 ? pair.runs : [...pair.runs].reverse();
  return el("div", {},
    table("Paired differences by metric", heads, body),
    el("p", { class: "note" }, `${whole(pair.questions)} questions scored in both runs`, pair.left_out ? `, ${whole(pair.left_out)} left out since one run has no score for them` : "",
      "; paired bootstrap interval, permutation test, exact McNemar test. ",
      el("a", { href: `${link("questions")}?a=${encodeURIComponent(first)}&b=${encodeURIComponent(second)}&flips=won` }, "Questions gained"), ", ",
      el("a", { href: `${link("questions")}?a=${encodeURIComponent(first)}&b=${encodeURIComponent(second)}&flips=lost` }, "questions lost"), "."),
    groups.length ? el("details", {}, el("summary", {}, `By ${[...new Set(pair.groups.map((group) => group.field))].join(", ")}`),
      table("Paired differences by group", heads.slice(0, 4), groups)) : "");
}

function table(caption, heads, body) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, el("table", {}, el("caption", { class: "hidden" }, caption),
    el("thead", {}, el("tr", {}, heads.map((head) => (head ? el("th", { scope: "col" }, head) : el("td", {}))))), el("tbody", {}, body)));
}

// -- plots ------------------------------------------------------------------------------------------------------------

function figure(title, note, ...content) {
  return el("section", { class: "card plot", "aria-label": title }, el("h3", {}, title), note ? el("p", { class: "note" }, note) : "", ...content);
}

function draw(title, options) {
  const width = Math.min(560, Math.max(280, main.clientWidth - 60));
  const picture = Plot.plot({ width, height: 300, marginLeft: 52, marginTop: 32, marginBottom: 44, grid: true, style: { background: "transparent", fontSize: "12px" }, color: { scheme: "Observable10" }, ...options });
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", title);
  // The parts of an image have no labels of their own for a screen reader; the section around it names the plot.
  for (const part of picture.querySelectorAll("g[aria-label]")) part.removeAttribute("aria-label");
  return picture;
}

function showPlots() {
  const board = state.board, metric = board.metrics[board.metric] ?? board.metric;
  const runs = Object.entries(board.runs).map(([name, run]) => {
    const row = board.rows.find((other) => other.run === name);
    const [score, low, high] = row.metrics[board.metric] ?? [null, null, null];
    return { name, run, label: run.label, score, low, high, tokens: meanOf(run.episodes, (episode) => episode.tokens),
      searches: row.searches, seconds: meanOf(run.episodes, (episode) => episode.seconds) };
  }).filter((run) => run.score !== null);
  const label = unique(runs);
  main.append(el("h2", {}, `${board.environment}, ${board.split} split`), el("div", { class: "plot-grid" },
    costPlot(runs, metric, label), scalingPlot(runs, metric), groupPlot(runs, metric, label), searchesPlot(runs, label),
    calibrationPlot(runs, metric, label), rewardPlot(runs, label), ...state.content.training.flatMap(trainingPlots)));
}

/** Return a function that names a run: by its policy, or by policy and folder where two runs share the policy. */
function unique(runs) {
  return (run) => (runs.filter((other) => other.label === run.label).length > 1 ? `${run.label} · ${run.name}` : run.label);
}

function costPlot(runs, metric, label) {
  const axes = [["searches", "searches per question"], ["seconds", "latency per question, s"]];
  if (runs.some((run) => run.tokens)) axes.unshift(["tokens", "tokens per question"]);
  const box = el("div", {});
  const show = (axis) => {
    const cheapest = [...runs].sort((one, other) => one[axis] - other[axis] || other.score - one.score);
    const front = cheapest.filter((run, place) => cheapest.slice(0, place).every((other) => other.score < run.score));
    box.replaceChildren(draw("Score against cost", {
      x: { label: axes.find(([name]) => name === axis)[1], nice: true, zero: true }, y: { label: metric, nice: true }, marginRight: 90,
      marks: [
        Plot.line(front, { x: axis, y: "score", curve: "step-after", strokeOpacity: 0.4, strokeDasharray: "4 3" }),
        Plot.ruleX(runs, { x: axis, y1: "low", y2: "high", strokeOpacity: 0.5 }),
        Plot.dot(runs, { x: axis, y: "score", fill: (run) => (front.includes(run) ? "var(--accent)" : "var(--soft)"), r: 5, tip: true, title: (run) => `${label(run)}\n${metric} ${number(run.score)} [${number(run.low)}, ${number(run.high)}]\n${number(run[axis], 2)} ${axis}` }),
        Plot.text(runs, { x: axis, y: "score", text: label, textAnchor: "start", dx: 8, lineWidth: 12, textOverflow: "ellipsis" }),
      ],
    }));
  };
  show(axes[0][0]);
  return figure("Score against cost", "The dashed line joins the runs that no cheaper run matches (Pareto front). Bars are 95 % intervals.", choice("Cost", axes, axes[0][0], show), box);
}

function scalingPlot(runs, metric) {
  const points = runs.filter(({ run }) => run.n).map((point) => ({ ...point, n: point.run.n, family: point.run.family.join(", critic ") }));
  // A run without a search at inference is the point at n = 1 of its policy's curves.
  for (const family of new Set(points.map((point) => point.family))) {
    const policy = points.find((point) => point.family === family).run.family[0];
    const single = runs.find(({ run }) => !run.n && run.family[0] === policy);
    if (single) points.push({ ...single, n: 1, family });
  }
  if (new Set(points.map((point) => point.n)).size < 2) return "";
  return figure("Score against n", "Candidates per step of best-of-n, or samples of voting.", draw("Score against n", {
    x: { type: "log", base: 2, label: "n", ticks: [...new Set(points.map((point) => point.n))] , tickFormat: "d" }, y: { label: metric, nice: true }, color: { legend: true },
    marks: [Plot.ruleX(points, { x: "n", y1: "low", y2: "high", stroke: "family", strokeOpacity: 0.5 }), Plot.line(points, { x: "n", y: "score", stroke: "family", sort: "n" }), Plot.dot(points, { x: "n", y: "score", fill: "family", r: 4, tip: true })],
  }));
}

function groupPlot(runs, metric, label) {
  const rows = runs.flatMap((run) => run.run.groups.map((group) => ({ ...group, run: label(run), mean: group.score[0], low: group.score[1], high: group.score[2] })));
  const fields = [...new Set(rows.map((row) => row.field))];
  if (!fields.length) return "";
  const box = el("div", {});
  const show = (field) => {
    const part = rows.filter((row) => row.field === field);
    box.replaceChildren(draw("Score by kind of question", {
      height: 60 + new Set(part.map((row) => row.value)).size * (16 * runs.length + 14), marginLeft: 130, y: { axis: null, padding: 0.2 }, fy: { label: null, padding: 0.15 }, x: { label: metric, domain: [0, 1] }, color: { legend: true },
      marks: [Plot.axisFy({ anchor: "left", label: null, lineWidth: 10 }), Plot.ruleY(part, { fy: "value", y: "run", x1: "low", x2: "high", stroke: "run" }), Plot.dot(part, { fy: "value", y: "run", x: "mean", fill: "run", r: 4, tip: true, title: (row) => `${row.run}\n${row.field} ${row.value}: ${number(row.mean)} [${number(row.low)}, ${number(row.high)}]\n${row.n} questions` })],
    }));
  };
  show(fields[0]);
  return figure("Score by kind of question", "Bars are 95 % intervals.", choice("By", fields.map((field) => [field, field]), fields[0], show), box);
}

function searchesPlot(runs, label) {
  const rows = runs.flatMap((run) => run.run.episodes.filter(Boolean).map((episode) => ({ run: label(run), searches: episode.searches })));
  return figure("Searches per episode", null, draw("Searches per episode", {
    height: 80 + 70 * runs.length, marginRight: 110, x: { label: "searches", type: "band", tickFormat: "d" }, y: { label: "episodes", ticks: 3 }, fy: { label: null },
    marks: [Plot.axisFy({ anchor: "right", label: null, lineWidth: 9 }), Plot.barY(rows, Plot.groupX({ y: "count" }, { x: "searches", fy: "run", fill: "var(--accent)", tip: true })), Plot.ruleY([0])],
  }));
}

function calibrationPlot(runs, metric, label) {
  const rows = [];
  for (const run of runs) {
    const points = [];
    for (const episode of run.run.episodes) {
      if (episode?.scores) for (const step of episode.steps) if (step.s !== undefined && step.c) points.push([step.s, episode.scores[state.board.metric]]);
    }
    points.sort((one, other) => one[0] - other[0]);
    // Ten bins of equal size, so that each mean rests on as many steps.
    const size = Math.ceil(points.length / 10);
    for (let start = 0; start < points.length; start += size) {
      const bin = points.slice(start, start + size);
      rows.push({ run: label(run), score: d3.mean(bin, (point) => point[0]), outcome: d3.mean(bin, (point) => point[1]), steps: bin.length });
    }
  }
  if (!rows.length) return "";
  return figure("Critic against outcome", "Steps in ten bins by the critic's score of the action that was chosen; the height is the mean final score of their episodes.", draw("Critic against outcome", {
    x: { label: "score by the critic", nice: true }, y: { label: `mean ${metric} of the episode`, domain: [0, 1] }, color: { legend: true },
    marks: [Plot.line(rows, { x: "score", y: "outcome", stroke: "run" }), Plot.dot(rows, { x: "score", y: "outcome", fill: "run", r: 4, tip: true, title: (row) => `${row.run}\nscore ${number(row.score)}: ${number(row.outcome)}\n${row.steps} steps` })],
  }));
}

function rewardPlot(runs, label) {
  const rows = runs.flatMap((run) => {
    const steps = run.run.episodes.filter(Boolean).flatMap((episode) => episode.steps.map((step, place) => ({ step: place + 1, reward: step.r })));
    return d3.rollups(steps, (group) => [d3.mean(group, (step) => step.reward), group.length], (step) => step.step).map(([step, [reward, count]]) => ({ run: label(run), step, reward, count }));
  });
  if (!rows.some((row) => row.reward)) return "";
  return figure("Process reward by step", "Mean over the episodes that reach the step.", draw("Process reward by step", {
    x: { label: "step", tickFormat: "d", ticks: d3.max(rows, (row) => row.step) }, y: { label: "process reward", nice: true }, color: { legend: true },
    marks: [Plot.ruleY([0]), Plot.line(rows, { x: "step", y: "reward", stroke: "run", sort: "step" }), Plot.dot(rows, { x: "step", y: "reward", fill: "run", r: 3, tip: true, title: (row) => `${row.run}\nstep ${row.step}: ${number(row.reward)}\n${row.count} episodes` })],
  }));
}

function trainingPlots({ name, curves }) {
  const names = Object.keys(curves);
  if (!names.length) return [];
  const box = el("div", {});
  const show = (curve) => box.replaceChildren(draw(`Training: ${curve}`, { x: { label: "training step" }, y: { label: curve, nice: true }, marks: [Plot.lineY(curves[curve], { x: "0", y: "1", stroke: "var(--accent)", tip: true })] }));
  const first = names.includes("loss") ? "loss" : names[0];
  show(first);
  return [figure(`Training: ${name}`, null, choice("Curve", names.map((curve) => [curve, curve]), first, show), box)];
}

// -- questions --------------------------------------------------------------------------------------------------------

const FILTERS = ["a", "b", "result", "flips", "type", "field", "value", "text", "seconds", "tokens"];

function showQuestions(_, query) {
  const board = state.board, names = Object.keys(board.runs);
  if (!names.length) {
    main.append(el("p", {}, "This board has no run folders, so there are no episodes to show."));
    return;
  }
  const chosen = Object.fromEntries(FILTERS.map((name) => [name, query.get(name) ?? ""]));
  if (!board.runs[chosen.a]) chosen.a = names[0];
  if (!board.runs[chosen.b]) chosen.b = names.find((name) => name !== chosen.a) ?? "";
  const fields = [...new Set(board.tasks.flatMap((task) => Object.keys(task.metadata)))];
  const types = [...new Set(board.tasks.map((task) => task.type).filter(Boolean))].sort();
  const count = el("p", { class: "note", role: "status" });
  const holder = el("div", { id: "questions-table" });
  const apply = (name, redraw = false) => (value) => {
    chosen[name] = value;
    const parts = FILTERS.filter((key) => chosen[key]).map((key) => `${key}=${encodeURIComponent(chosen[key])}`);
    history.replaceState(null, "", `${link("questions")}?${parts.join("&")}`);
    if (redraw) route();
    else filter();
  };
  const text = el("input", { type: "search", id: "text-filter", value: chosen.text, placeholder: "question, query, passage, model text", input: (event) => apply("text")(event.target.value) });
  const bound = (name, label) => el("label", { class: "field narrow" }, el("span", {}, label), el("input", { type: "number", min: "0", step: "any", value: chosen[name], input: (event) => apply(name)(event.target.value) }));
  const results = [["", "any result"], ...Object.entries(VERDICTS)];
  main.append(
    el("h2", {}, "Questions"),
    el("div", { class: "filters", role: "search" },
      runChoice("Run", chosen.a, apply("a", true)),
      names.length > 1 ? runChoice("Compare with", chosen.b, apply("b", true)) : "",
      choice("Result", results, chosen.result, apply("result")),
      names.length > 1 ? choice("Difference", [["", "any"], ["won", "wrong here, right there"], ["lost", "right here, wrong there"]], chosen.flips, apply("flips")) : "",
      types.length ? choice("Type", [["", "any"], ...types.map((type) => [type, type])], chosen.type, apply("type")) : "",
      fields.length ? choice("Metadata", [["", "any"], ...fields.map((field) => [field, field])], chosen.field, apply("field")) : "",
      fields.length ? el("label", { class: "field narrow" }, el("span", {}, "is"), el("input", { type: "text", value: chosen.value, input: (event) => apply("value")(event.target.value) })) : "",
      bound("seconds", "Seconds ≥"), bound("tokens", "Tokens ≥"),
      el("label", { class: "field wide" }, el("span", {}, "Text"), text)),
    count, holder);
  const [one, other] = [board.runs[chosen.a], board.runs[chosen.b]];
  const rows = board.tasks.map((task, index) => {
    const [episode, beside] = [one.episodes[index], other?.episodes[index]];
    return { index, id: task.id, question: task.question, type: task.type, verdict: verdict(episode), beside: other && verdict(beside), score: episode?.scores?.[board.metric] ?? null,
      answer: episode?.answer ?? "", gold: task.answers[0] ?? "", searches: episode?.searches ?? null, tokens: episode?.tokens ?? null, seconds: episode?.seconds ?? null, recall: episode?.scores?.recall ?? null };
  });
  const matches = (row) => {
    const task = board.tasks[row.index];
    if (chosen.result && row.verdict !== chosen.result) return false;
    if (chosen.flips === "won" && !(row.verdict !== "right" && row.beside === "right")) return false;
    if (chosen.flips === "lost" && !(row.verdict === "right" && row.beside !== "right")) return false;
    if (chosen.type && task.type !== chosen.type) return false;
    if (chosen.field && !(task.metadata[chosen.field] ?? "").toLowerCase().includes(chosen.value.toLowerCase())) return false;
    if (chosen.field && !(chosen.field in task.metadata)) return false;
    if (chosen.seconds && !(row.seconds >= Number(chosen.seconds))) return false;
    if (chosen.tokens && !(row.tokens >= Number(chosen.tokens))) return false;
    return !chosen.text || blob(chosen.a, row.index).includes(chosen.text.toLowerCase());
  };
  const textCell = (cell) => el("span", { class: "clip", title: String(cell.getValue() ?? "").slice(0, 500) }, String(cell.getValue() ?? ""));
  const result = (cell) => el("span", { class: `badge ${cell.getValue()}` }, `${MARKS[cell.getValue()]} ${VERDICTS[cell.getValue()]}`);
  const right = { hozAlign: "right", headerHozAlign: "right", sorter: "number", width: 108 };
  const place = (row) => link("episode", chosen.a, row.id, "1");
  const questionCell = (cell) => el("a", { class: "clip", href: place(cell.getData()), title: cell.getValue() }, cell.getValue());
  state.table = grid(holder, {
    data: rows.filter(matches), height: "min(68vh, 900px)", layout: "fitColumns", placeholder: "No question matches.", index: "index", rowHeight: 34,
    columns: [
      { title: "Question", field: "question", minWidth: 220, widthGrow: 4, formatter: questionCell },
      ...(types.length ? [{ title: "Type", field: "type", width: 130, formatter: textCell }] : []),
      { title: "Result", field: "verdict", width: 128, formatter: result },
      ...(other ? [{ title: "Compared", field: "beside", width: 128, formatter: result }] : []),
      { title: "Answer", field: "answer", minWidth: 110, widthGrow: 2, formatter: textCell },
      { title: "Gold", field: "gold", minWidth: 110, widthGrow: 2, formatter: textCell },
      ...(rows.some((row) => row.recall !== null) ? [{ title: "Recall", field: "recall", ...right, formatter: (cell) => number(cell.getValue(), 2) }] : []),
      { title: "Searches", field: "searches", ...right, formatter: (cell) => whole(cell.getValue()) },
      ...(rows.some((row) => row.tokens) ? [{ title: "Tokens", field: "tokens", ...right, formatter: (cell) => whole(cell.getValue()) }] : []),
      { title: "Seconds", field: "seconds", ...right, formatter: (cell) => number(cell.getValue(), 2) },
    ],
  });
  const remember = () => { state.list = state.table.getData("active").map((row) => row.id); };
  const filter = () => {
    const hits = rows.filter(matches);
    count.textContent = `${whole(hits.length)} of ${whole(rows.length)} questions`;
    // Before the table is built it takes the data of its options; then it takes these.
    if (state.table.initialized) state.table.replaceData(hits).then(remember);
  };
  state.table.on("tableBuilt", () => { filter(); });
  state.table.on("dataSorted", () => { if (state.table?.initialized) remember(); });
  state.table.on("rowClick", (event, row) => { if (!event.target.closest("a")) location.hash = place(row.getData()); });
  count.textContent = `${whole(rows.filter(matches).length)} of ${whole(rows.length)} questions`;
}

// -- one episode ------------------------------------------------------------------------------------------------------

function showEpisode([name, question, step = "1"]) {
  const board = state.board, index = board.tasks.findIndex((task) => task.id === question), run = board.runs[name];
  if (!run || index < 0) {
    main.append(el("p", {}, "This report has no such run or question. ", el("a", { href: link("questions") }, "All questions")));
    return;
  }
  const task = board.tasks[index], episode = run.episodes[index];
  const list = state.list.includes(question) ? state.list : board.tasks.map((other) => other.id);
  const at = list.indexOf(question);
  const go = (offset) => { const next = list[at + offset]; if (next !== undefined) location.hash = link("episode", name, next, "1"); };
  const others = Object.keys(board.runs).filter((other) => board.runs[other].episodes[index]);
  main.append(
    el("div", { class: "bar" },
      el("a", { href: `${link("questions")}?a=${encodeURIComponent(name)}`, "data-key": "Escape" }, "← All questions"),
      el("span", { class: "spring" }),
      el("button", { type: "button", click: () => go(-1), disabled: at <= 0, title: "Previous question (k)" }, "‹ Previous"),
      el("span", { class: "note" }, `${whole(at + 1)} of ${whole(list.length)}`),
      el("button", { type: "button", click: () => go(1), disabled: at + 1 >= list.length, title: "Next question (j)" }, "Next ›")),
    el("h2", { class: "question" }, task.question),
    task.options.length ? el("ul", { class: "options" }, task.options.map((option) => el("li", {}, option))) : "",
    el("dl", { class: "facts" },
      fact("Gold answer", task.answers.join(" / ")), task.gold.length ? fact("Gold passages", task.gold.join(" · ")) : "",
      task.type ? fact("Type", task.type) : "", ...Object.entries(task.metadata).map(([key, value]) => fact(key, value.length > 300 ? `${value.slice(0, 300)}…` : value)), fact("Id", task.id)),
    el("div", { class: "runs", role: "group", "aria-label": "Runs" }, others.map((other) =>
      el("a", { href: link("episode", other, question, "1"), class: "run", "aria-current": other === name ? "true" : null }, badge(board.runs[other].episodes[index]), ` ${board.runs[other].label}`))));
  if (!episode) {
    main.append(el("p", {}, "This run has no episode of the question."));
    return;
  }
  main.append(el("ol", { class: "steps" }, episode.steps.map((part, place) => stepView(part, place, task, episode, { name, question, current: place + 1 === Number(step) }))));
  main.append(endView(episode));
  const current = document.querySelector(".step.current");
  if (step !== "1") current?.scrollIntoView({ block: "start" });
  main.dataset.step = step;
}

const fact = (title, text) => el("div", {}, el("dt", {}, title), el("dd", {}, text));

function endView(episode) {
  const scores = Object.entries(episode.scores ?? {}).map(([name, value]) => el("span", { class: "chip" }, `${state.board.metrics[name] ?? name} ${number(value)}`));
  return el("section", { class: "card end", "aria-label": "End of the episode" }, badge(episode),
    el("p", {}, episode.error !== null ? `The episode failed: ${episode.error}` : episode.answer === null ? `The episode ended without an answer (${episode.stop}).` : el("b", {}, episode.answer)),
    el("p", {}, scores, el("span", { class: "chip" }, `${whole(episode.searches)} searches`), el("span", { class: "chip" }, `${number(episode.seconds, 2)} s`), episode.tokens ? el("span", { class: "chip" }, `${whole(episode.tokens)} tokens in ${whole(episode.calls)} calls`) : ""),
    promptView(episode.m), episode.output ? fold("The output that is no action", el("pre", {}, episode.output), true) : "");
}

function stepView(step, place, task, episode, { name, question, current }) {
  const search = step.q !== undefined;
  const chips = [el("span", { class: "chip" }, `process reward ${signed(step.r ?? 0)}`)];
  if (!search || step.o) chips.push(el("span", { class: "chip" }, `outcome ${number(step.o ?? 0)}`));
  if (step.s !== undefined) chips.push(el("span", { class: "chip" }, `score ${signed(step.s)}`));
  if (step.u) chips.push(el("span", { class: "chip" }, `${whole(step.u)} tokens`));
  const passages = step.p ?? [], gold = new Set(step.g ?? []);
  return el("li", { class: `card step${current ? " current" : ""}`, id: `step-${place + 1}` },
    el("div", { class: "head" },
      el("a", { class: "number", href: link("episode", name, question, place + 1), title: "Link to this step" }, String(place + 1)),
      el("span", { class: `kind ${search ? "search" : "answer"}` }, search ? "search" : "answer"),
      el("b", { class: "action" }, search ? step.q : step.a), el("span", { class: "spring" }), ...chips),
    step.d ? el("p", { class: "draft" }, el("span", { class: "note" }, "answer so far: "), step.d) : "",
    search ? el("div", { class: "passages" }, passages.length ? passages.map((passage, rank) => passageView(passage, rank, gold.has(rank), task)) :
      el("p", { class: "note" }, place + 1 === episode.steps.length && episode.stop === "search_budget" ? "No search was left, so it was not run." : "Nothing was found.")) : "",
    step.c ? fold(`${step.c.length} candidates`, candidateTable(step)) : "",
    step.t ? fold("What the model wrote", el("pre", { class: "raw" }, step.t)) : "",
    promptView(step.m));
}

// The recorded prompt of a step, or of the output that ended an episode.
function promptView(messages) {
  if (!messages?.length) return "";
  return fold("Prompt", el("div", {}, messages.map((message) => el("div", { class: "message" }, el("b", {}, message.role), el("pre", {}, message.content)))));
}

function fold(title, content, open = false) {
  return el("details", { open }, el("summary", {}, title), content);
}

function passageView(place, rank, gold, task) {
  const [, title, text] = state.content.passages[place];
  const summary = el("summary", {}, el("span", { class: "rank" }, `${rank + 1}`), title, gold ? el("b", { class: "pill gold" }, "★ gold") : "");
  const details = el("details", { class: gold ? "gold" : "" }, summary);
  // The text is made when it is first opened: a long episode has hundreds of passages.
  details.addEventListener("toggle", () => {
    if (details.children.length === 1) details.append(el("p", { class: "text" }, text === null ? "The passage's text is not in this report." : marked(text, task.answers)));
  });
  return details;
}

/** Return the text with the gold answers in <mark>. */
function marked(text, answers) {
  const parts = [], lower = text.toLowerCase();
  const needles = answers.map((answer) => answer.toLowerCase()).filter((answer) => answer.length > 1);
  let from = 0;
  while (from < text.length) {
    // Of the answers that occur, the earliest; of those at one place, the longest. Lower case may change the length.
    const hits = lower.length === text.length ? needles.map((needle) => [lower.indexOf(needle, from), needle.length]).filter(([at]) => at >= 0) : [];
    if (!hits.length) break;
    const [at, length] = hits.reduce((best, hit) => (hit[0] < best[0] || (hit[0] === best[0] && hit[1] > best[1]) ? hit : best));
    parts.push(text.slice(from, at), el("mark", {}, text.slice(at, at + length)));
    from = at + length;
  }
  return [...parts, text.slice(from)];
}

function candidateTable(step) {
  const same = (candidate) => candidate.q === step.q && candidate.a === step.a;
  const scores = step.c.map((candidate) => candidate.s).filter((score) => score !== null && score !== undefined);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  return table("Candidates", ["score", "", "action", "what the model wrote"], step.c.map((candidate) => {
    const share = candidate.s === null || candidate.s === undefined || high === low ? 0 : (candidate.s - low) / (high - low);
    return el("tr", { class: same(candidate) ? "chosen" : "" },
      el("td", {}, candidate.s === null || candidate.s === undefined ? "none" : signed(candidate.s)),
      el("td", { class: "meter-cell" }, el("meter", { min: "0", max: "1", value: String(share), "aria-label": `relative score ${number(share, 2)}` })),
      el("td", {}, el("span", { class: `kind ${candidate.q !== undefined ? "search" : candidate.a !== undefined ? "answer" : "none"}` }, candidate.q !== undefined ? "search" : candidate.a !== undefined ? "answer" : "no action"),
        ` ${candidate.q ?? candidate.a ?? ""}`, same(candidate) ? el("b", { class: "pill" }, "chosen") : ""),
      el("td", {}, candidate.t ? fold("show", el("pre", { class: "raw" }, candidate.t)) : ""));
  }));
}

// -- keys, theme, start -----------------------------------------------------------------------------------------------

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "/" && !typing && $("text-filter")) {
    event.preventDefault();
    $("text-filter").focus();
    return;
  }
  if (typing || !main.classList.contains("episode")) return;
  const press = (text) => [...main.querySelectorAll(".bar button")].find((button) => button.textContent.includes(text))?.click();
  const steps = main.querySelectorAll(".step").length, current = Number(main.dataset.step ?? 1);
  const moves = { j: () => press("Next"), k: () => press("Previous"), ArrowRight: () => step(1), ArrowLeft: () => step(-1), Escape: () => main.querySelector("[data-key=Escape]").click() };
  const step = (offset) => {
    const next = current + offset;
    if (next < 1 || next > steps) return;
    history.replaceState(null, "", location.hash.replace(/[^/]*$/, String(next)));
    main.dataset.step = next;
    for (const [place, part] of main.querySelectorAll(".step").entries()) part.classList.toggle("current", place + 1 === next);
    $(`step-${next}`).scrollIntoView({ block: "nearest" });
  };
  if (moves[event.key]) {
    event.preventDefault();
    moves[event.key]();
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "dark" ? "☀ Light" : "☾ Dark";
}

async function start() {
  const bytes = Uint8Array.from(atob($("data").textContent.trim()), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  state.content = await new Response(stream).json();
  state.content.boards.forEach((board, index) => { board.index = index; });
  const boards = $("board");
  boards.append(...state.content.boards.map((board) => el("option", { value: board.index }, `${board.environment}, ${board.split}, ${whole(board.questions)} questions`)));
  boards.closest("label").hidden = state.content.boards.length < 2;
  boards.addEventListener("change", () => { location.hash = `#/${boards.value}/leaderboard`; });
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  $("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  addEventListener("hashchange", route);
  addEventListener("keydown", onKey);
  route();
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => main.replaceChildren(el("p", { role: "alert" }, `The report cannot be shown: ${error}. It needs a browser of 2023 or newer.`)));
