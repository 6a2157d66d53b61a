// The plots: each is a Vega-Lite specification that lacks its data, which are the rows that the filters leave.

const LEGEND_COLUMN = 170;
const AXIS_WIDTH = 60;
const SYMBOL_WIDTH = 28;
const NAMES_WIDTH = 180;
const CELL_WIDTH = 90;

/** What a custom property of the style sheet comes to in the theme of the moment. */
function colour(name) {
  const probe = element("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** The style of all plots, from the page's own colours. */
function appearance(width) {
  const [ink, faint, line] = ["ink", "faint", "line"].map(colour);
  const columns = Math.max(2, Math.min(5, Math.floor(width / LEGEND_COLUMN)));
  return {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: {
      labelColor: faint, titleColor: faint, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12,
      gridColor: line, domainColor: line, tickColor: line,
    },
    legend: {
      orient: "top", labelColor: ink, labelFontSize: 12, symbolOpacity: 1,
      columns, labelLimit: Math.min(220, (width - AXIS_WIDTH) / columns - SYMBOL_WIDTH),
    },
    text: { color: ink },
  };
}

class Plot {
  /** It is drawn when it comes into view, and again when it is in view and its rows change. */
  constructor(name, { title, reading, scope, needs, specification }) {
    Object.assign(this, { scope, needs, specification, rows: [], stale: true, seen: false });
    this.place = element("div", { className: "chart", role: "region", "aria-label": title });
    const caption = element("figcaption", {}, element("h3", { textContent: title }), element("p", { textContent: reading }));
    this.figure = element("figure", { id: `plot-${name}` }, caption, this.place);
    new IntersectionObserver(([entry]) => {
      this.seen = entry.isIntersecting;
      this.draw();
    }, { rootMargin: "300px" }).observe(this.figure);
  }

  /** Show these rows of one group; `task` is the one chosen for the plots. A plot that it does not fit hides. */
  show(rows, task) {
    const every = this.scope === "every";
    const chosen = rows.filter((row) => (every ? !row.over_tasks : row.task === task));
    const unfit = { task: true, mean: false }[this.scope];
    this.rows = this.needs ? chosen.filter((row) => row[this.needs].length) : chosen;
    this.any = chosen.length > 0;
    const tasks = new Set(this.rows.map((row) => row.task)).size;
    this.figure.hidden = every ? tasks < 2 : chosen.some((row) => row.over_tasks === unfit);
    if (every) this.place.style.maxWidth = `${NAMES_WIDTH + CELL_WIDTH * tasks}px`;
    this.stale = true;
    this.draw();
  }

  async draw() {
    if (!this.stale || !this.seen) return;
    this.stale = false;
    this.view?.finalize();
    if (!this.rows.length) {
      this.place.replaceChildren(element("p", { className: "missing", textContent: this.why }));
      return;
    }
    const options = {
      actions: false,
      ast: true, // expressions are interpreted, since the page forbids to evaluate text as code
      renderer: "svg",
      logLevel: 1, // errors: that a filter leaves nothing to scale is no news
      config: appearance(this.place.clientWidth),
      tooltip: { theme: isDark() ? "dark" : "light" },
    };
    const data = { datasets: { entries: this.rows }, height: this.height };
    this.view = await window.vegaEmbed(this.place, { ...this.specification, ...data }, options);
    this.place.tabIndex = this.place.scrollHeight > this.place.clientHeight ? 0 : -1;
  }

  /** In pixels; a chart with a bar or a line of cells per method grows with them. */
  get height() {
    const { height } = this.specification;
    return height.step ? height.step * new Set(this.rows.map((row) => row.label)).size : height;
  }

  /** Why there is nothing to see. */
  get why() {
    if (!this.any) return "No row is left by the filters.";
    return {
      causes: "These runs did not measure it (measure=none).",
      rates: "These rows were not tuned.",
    }[this.needs] ?? "The records of these rows do not tell.";
  }
}
