// The table: columns, order and rows. Text from records goes in as text nodes alone, never as HTML.

const MISSING = "–";
const STANDINGS = { best: "best", alike: "≈ best", below: "" };

const grouped = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });

/** Three significant digits, thousands grouped. */
function short(value) {
  if (value === 0 || Math.abs(value) >= 1000) return grouped.format(value);
  return Number(value.toPrecision(3)).toString();
}

/** A learning rate as people write it: 2e-3, 3.16e-4. */
function rate(value) {
  return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
}

function mebibytes(value) {
  return short(value / 2 ** 20);
}

const COLUMNS = [
  { key: "rank", title: "Rank", number: true, text: String },
  { key: "label", title: "Method" },
  { key: "score_mean", title: "Score, %", number: true, falling: true },
  { key: "standing", title: "Against\nbest", order: Object.keys(STANDINGS) },
  { key: "task", title: "Task" },
  { key: "seeds", title: "Seeds", number: true, text: String },
  { key: "trainable_parameters", title: "Trainable\nparams", number: true, text: grouped.format },
  { key: "memory_bytes", title: "Memory,\nMiB", number: true, text: mebibytes },
  { key: "train_seconds", title: "Training,\ns", number: true, text: short },
  { key: "train_samples_per_second", title: "Samples\nper s", number: true, text: short, falling: true },
  { key: "inference_latency_seconds_median", title: "Latency,\nms", number: true, text: (value) => short(1e3 * value) },
  { key: "learning_rate", title: "Learning\nrate", number: true, text: rate },
  { key: "tuning", title: "Settings", text: effort },
];

/** How the learning rate was found, in short. */
function effort(value) {
  const trials = value.match(/(\d+) trials/)?.[1];
  return trials ? `tuned (${trials} trials)` : value;
}

/** What a row shows when it is opened: titles, columns, and how their numbers read. */
const FIGURES = [
  ["seeds lost (diverged, failed, out of memory)", "lost_seeds", grouped.format],
  ["standard deviation over seeds", "score_std", short],
  ["standard error over examples", "standard_error_over_examples", short],
  ["mean rank over the tasks", "mean_rank", short],
  ["Friedman's p-value", "friedman_p_value", short],
  ["mean ranks differ beyond", "critical_difference", short],
  ["share of wins", "win_rate", (value) => `${(100 * value).toFixed(0)}\u00a0%`],
  ["trained share of parameters", "trainable_percent", (value) => `${short(value)}\u00a0%`],
  ["parameters of the task head", "head_parameters", grouped.format],
  ["parameters when served", "inference_parameters", grouped.format],
  ["saved adapter, MiB", "stored_bytes", mebibytes],
  ["peak memory in training, MiB", "peak_memory_bytes", mebibytes],
  ["activations, MiB", "activation_bytes", mebibytes],
  ["training tokens per s", "train_tokens_per_second", short],
  ["median step, ms", "step_seconds_median", (value) => short(1e3 * value)],
  ["training, TFLOP", "train_flops", (value) => short(value / 1e12)],
  ["training energy, J", "train_energy_joules", short],
  ["PPT", "ppt_c1e7", short],
  ["PSCP", "pscp_b1_overhead", short],
];

/** What the plots show of a row, as text: title, the lists of names and numbers, and how these read. */
const PARTS = [
  ["Memory by cause, MiB", "causes", "cause_bytes", String, mebibytes],
  ["Time by phase, s", "phases", "phase_seconds", String, short],
  ["Held-out score by learning rate, %", "rates", "rate_scores", rate, (value) => value.toFixed(2)],
];

/** An element with properties, attributes (names with a dash or `role`) and children; strings become text. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Rows in the order of a column; missing values last whatever the direction, equal ones as they were. */
function ordered(rows, { key, falling }) {
  if (key === null) return rows;
  const sign = falling ? -1 : 1;
  const order = COLUMNS.find((column) => column.key === key)?.order;
  const place = (row) => (order ? order.indexOf(row[key]) : row[key]);
  const compare = (one, other) => (typeof one === "number" ? one - other : String(one).localeCompare(String(other)));
  const known = rows.filter((row) => row[key] !== null);
  return [...known.sort((one, other) => sign * compare(place(one), place(other))), ...rows.filter((row) => row[key] === null)];
}

function drawHead(head, sort, onSort) {
  const cells = COLUMNS.map((column) => {
    const chosen = sort.key === column.key;
    const button = element("button", { type: "button", textContent: column.title });
    button.addEventListener("click", () => onSort(column));
    return element("th", {
      scope: "col",
      className: `${column.number ? "number" : ""} ${column.key === "label" ? "method" : ""}`,
      "aria-sort": chosen ? (sort.falling ? "descending" : "ascending") : "none",
      "data-key": column.key,
    }, button);
  });
  head.replaceChildren(element("tr", {}, ...cells));
}

/** The cell of a column; what is missing is a dash. */
function cell(column, row) {
  const value = row[column.key];
  const made = element("td", { className: column.number ? "number" : "", "data-key": column.key });
  if (column.key === "score_mean") made.append(...score(row));
  else if (column.key === "standing" && value) made.append(standing(value));
  else if (column.key === "learning_rate" && value === null && row.over_tasks) made.append("by task");
  else if (value === null) made.append(element("span", { className: "missing", textContent: MISSING }));
  else made.append(column.text ? column.text(value) : value);
  if (column.key === "learning_rate" && row.at_edge) {
    const title = "The lowest or highest rate that tuning could choose";
    made.append(element("span", { className: "mark edge", title, textContent: "edge" }));
  }
  return made;
}

function score(row) {
  const half = row.score_high === null ? "" : `± ${(row.score_high - row.score_mean).toFixed(2)}`;
  const title = `${row.lost_seeds} further seeds ended without a score`;
  const lost = row.lost_seeds ? [element("abbr", { title, textContent: "‡" })] : [];
  return [`${row.score_mean.toFixed(2)} `, element("span", { className: "half", textContent: half }), ...lost];
}

function standing(value) {
  return STANDINGS[value] ? element("span", { className: `mark ${value}`, textContent: STANDINGS[value] }) : "";
}

/** The row of the table, and below it, once it is opened, its details. */
function drawRow(row, colours) {
  const cells = COLUMNS.map((column) => (column.key === "label" ? null : cell(column, row)));
  const dot = element("span", { className: "dot", title: row.family });
  dot.style.background = colours[row.family];
  const button = element("button", { type: "button", "aria-expanded": "false" }, dot, row.label);
  cells[COLUMNS.findIndex((column) => column.key === "label")] = element(
    "td", { className: "method", "data-key": "label" }, button,
  );
  const line = element("tr", {}, ...cells);
  let opened = null;
  button.addEventListener("click", () => {
    if (opened) opened.remove();
    else line.after((opened = drawDetails(row)));
    if (!opened.isConnected) opened = null;
    button.setAttribute("aria-expanded", String(opened !== null));
  });
  return line;
}

function drawDetails(row) {
  const commands = element("div", {}, element("h3", { textContent: "Repeat it" }), ...row.commands.map(command));
  if (!row.commands.length) commands.append(element("p", { textContent: "The record of this row is not at hand." }));
  const more = element("a", { href: "#methods", textContent: `About ${row.method}` });
  more.addEventListener("click", (event) => openCard(row.method, event));
  const body = element("div", {}, commands, list("Figures", figures(row), "figures"), ...PARTS.map(([title, names, values, name, text]) =>
    list(title, row[names].map((part, index) => [name(part), text(row[values][index])]), "figures")),
    list("Settings of the method", settings(row), "figures settings"), more);
  return element("tr", { className: "details" }, element("td", { colSpan: COLUMNS.length }, body));
}

function figures(row) {
  const interval = row.score_low === null ? [] : [["95 % interval", `${row.score_low.toFixed(2)} to ${row.score_high.toFixed(2)}`]];
  const known = FIGURES.filter(([, key]) => row[key] !== null);
  return [
    ["family", row.family],
    ["metric", row.metric ?? "mean of the tasks' own"],
    ["seeds", row.seed_list ?? String(row.seeds)],
    ...(row.commit ? [["code", row.commit]] : []),
    ...interval,
    ...known.map(([title, key, text]) => [title, text(row[key])]),
  ];
}

function settings(row) {
  return Object.entries(row.settings).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]);
}

function list(title, pairs, className) {
  const entries = pairs.map(([name, value]) =>
    element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
  return element("div", { hidden: !pairs.length }, element("h3", { textContent: title }), element("dl", { className }, ...entries));
}

function command(text) {
  const shown = element("pre", {}, element("code", { textContent: text }));
  const button = element("button", { type: "button", textContent: "Copy" });
  button.addEventListener("click", async () => {
    button.textContent = (await copied(text, shown)) ? "Copied" : "Press Ctrl-C";
  });
  return element("div", { className: "command" }, shown, button);
}

/** Whether the text is on the clipboard; a browser that refuses leaves it selected. */
async function copied(text, shown) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(shown);
    return document.execCommand("copy");
  }
}
