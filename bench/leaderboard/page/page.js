// What is chosen, and what follows from it: group, filters, order, theme.

const content = JSON.parse(document.getElementById("content").textContent);
const find = (id) => document.getElementById(id);
const colours = Object.fromEntries(content.families.map(({ name, colour }) => [name, colour]));
const groups = new Map(content.groups.map((group) => [group.name, group]));
const rows = content.rows.map((values) => {
  const row = Object.fromEntries(content.columns.map((name, index) => [name, values[index]]));
  return { ...row, tuning: groups.get(row.group).tuning };
});
const plots = Object.entries(content.plots).map(([name, plot]) => new Plot(name, plot));
const UNSORTED = { key: null, falling: false };
let sort = UNSORTED;

const FACTS = {
  model: "Model", model_settings_id: "Weights and settings", budget: "Budget", recipe_id: "Recipe", tuning: "Tuning",
  data_source: "Data", data_subset: "Examples", precision: "Precision", hardware: "Hardware", software: "Software",
};

function options(select, values, kept, all = null) {
  const listed = values.map((value) => (Array.isArray(value) ? value : [value, value]));
  const every = all === null ? listed : [["", all], ...listed];
  select.replaceChildren(...every.map(([value, text]) => element("option", { value, textContent: text })));
  select.value = every.some(([value]) => value === kept) ? kept : every[0]?.[0] ?? "";
}

const distinct = (values) => [...new Set(values)];
const UNTUNED = ["defaults", "rate set by hand"];
const settingsOf = (group) => (UNTUNED.includes(group.tuning) ? group.tuning : "tuned");

/** Groups that the filters on what a group has in common leave; all rows of a group share these. */
function allowedGroups() {
  const { model, hardware, settings } = Object.fromEntries(["model", "hardware", "settings"].map((id) => [id, find(id).value]));
  return content.groups.filter((group) =>
    (!model || group.model === model) &&
    (!hardware || group.hardware === hardware) &&
    (!settings || settingsOf(group) === settings));
}

function describe({ title, rows: count, name }) {
  return `${title}: ${count} ${count === 1 ? "row" : "rows"} (${name})`;
}

function chooseGroups() {
  options(find("group"), allowedGroups().map((group) => [group.name, describe(group)]), find("group").value);
  chooseTasks();
}

/** The tasks of the chosen group; it opens with its means over tasks, unless a single task has more methods. */
function chooseTasks() {
  const members = rows.filter((row) => row.group === find("group").value);
  const tasks = distinct(members.map((row) => row.task));
  const methods = (task) => members.filter((row) => row.task === task).length;
  const mean = members.find((row) => row.over_tasks)?.task;
  const over = tasks.reduce((most, task) => (methods(task) > methods(most) ? task : most), mean ?? tasks[0]);
  options(find("task"), tasks, tasks.includes(find("task").value) ? find("task").value : tasks.length > 1 ? over : "", "all");
  options(find("plot-task"), tasks, find("plot-task").value || over);
  const group = groups.get(find("group").value);
  const facts = group ? Object.entries(FACTS).map(([key, title]) =>
    element("div", {}, element("dt", { textContent: title }), element("dd", { textContent: group[key] }))) : [];
  find("facts").replaceChildren(...facts);
  followTask();
}

/** A task that is chosen for the table is that of the plots, too. */
function followTask() {
  if (find("task").value) find("plot-task").value = find("task").value;
  draw();
}

/** The rows of the chosen group that search and family leave. */
function remaining() {
  const words = find("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => {
    const text = `${row.label} ${row.family}`.toLowerCase();
    return row.group === find("group").value &&
      words.every((word) => text.includes(word)) &&
      (!find("family").value || row.family === find("family").value);
  });
}

function draw() {
  const left = remaining();
  const task = find("task").value;
  const shown = ordered(left.filter((row) => !task || row.task === task), sort);
  drawHead(document.querySelector(".frame thead"), sort, sortBy);
  document.querySelector(".frame tbody").replaceChildren(...shown.map((row) => drawRow(row, colours)));
  find("count").textContent = shown.length ? `${shown.length} ${shown.length === 1 ? "row" : "rows"}` : "No row is left by the filters.";
  drawLost(task);
  drawPlots(left);
}

/** What has no row in the chosen group, or on the chosen task of it, as no run ended with a score. */
function drawLost(task) {
  const lost = (groups.get(find("group").value)?.lost ?? []).filter((row) => !task || row.task === task);
  const named = lost.map((row) => `${row.method} on ${row.task} (seeds ${row.seed_list}: ${row.endings.replaceAll("_", " ")})`);
  find("lost").textContent = `Without a score: ${named.join(", ")}.`;
  find("lost").hidden = !lost.length;
}

function drawPlots(left = remaining()) {
  for (const plot of plots) plot.show(left, find("plot-task").value);
}

/** The next order by a column: its first direction, then the other. The button that was pressed keeps the focus. */
function sortBy(column) {
  const first = Boolean(column.falling);
  sort = { key: column.key, falling: sort.key === column.key ? !sort.falling : first };
  draw();
  document.querySelector(`th[data-key="${column.key}"] button`).focus();
}

function openCard(method, event) {
  const card = [...document.querySelectorAll(".card")].find((found) => found.dataset.method === method);
  if (!card) return;
  event.preventDefault();
  card.open = true;
  card.scrollIntoView();
  card.querySelector("summary").focus();
}

function startOver() {
  sort = UNSORTED;
  chooseGroups();
}

const dark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : dark.matches;
}

function showTheme() {
  find("theme").textContent = isDark() ? "Light" : "Dark";
  drawPlots();
}

function later(action, milliseconds) {
  let waiting = 0;
  return () => {
    clearTimeout(waiting);
    waiting = setTimeout(action, milliseconds);
  };
}

function begin() {
  const every = (key) => distinct(content.groups.map((group) => group[key])).sort();
  options(find("family"), content.families.map(({ name }) => name), "", "all");
  options(find("model"), every("model"), "", "any");
  options(find("hardware"), every("hardware"), "", "any");
  find("plots").replaceChildren(...plots.map((plot) => plot.figure));
  for (const id of ["model", "hardware", "settings"]) find(id).addEventListener("change", chooseGroups);
  find("group").addEventListener("change", chooseTasks);
  find("family").addEventListener("change", draw);
  find("task").addEventListener("change", followTask);
  find("plot-task").addEventListener("change", () => drawPlots());
  find("text").addEventListener("input", later(draw, 120));
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("filters").addEventListener("reset", () => setTimeout(startOver));
  find("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  dark.addEventListener("change", showTheme);
  find("theme").textContent = isDark() ? "Light" : "Dark";
  chooseGroups();
}

begin();
