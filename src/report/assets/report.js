"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const colours = ["#3b82c4", "#d9772b", "#3f9b5f", "#c4504f", "#8867c0", "#8a6d5a", "#c76aa8", "#7d8794", "#a5a53a", "#35a3ad"];
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const short = (value) => (value == null ? "-" : Number(value.toPrecision(5)).toString());
const drawn = new Map();

// Draws a chart of the width of its place, again when that changes or the colours do.
function chart(place, title, x, xs, series, points) {
  const draw = () => {
    drawn.get(place)?.destroy();
    const axis = { stroke: style("--faint"), grid: { stroke: style("--line"), width: 1 }, ticks: { stroke: style("--line") } };
    const value = (_, raw) => short(raw);
    const lines = series.map(([label, , colour]) => ({
      label, stroke: colour, width: 2, value, spanGaps: true,
      points: points ? { show: true, size: 9, fill: colour } : { show: undefined },
      paths: points ? () => null : undefined,
    }));
    const options = {
      title, width: Math.max(place.clientWidth, 200), height: 240,
      scales: { x: { time: false } },
      axes: [{ ...axis, label: x }, { ...axis, size: 64, values: (_, ticks) => ticks.map(short) }],
      series: [{ label: x, value }, ...lines],
      legend: { live: true },
    };
    drawn.set(place, new uPlot(options, [xs, ...series.map(([, values]) => values)], place));
  };
  draw();
  redraws.set(place, draw);
}

const redraws = new Map();
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== width) {
    width = window.innerWidth;
    redraws.forEach((draw) => draw());
  }
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((draw) => draw()));

function curves() {
  const place = document.getElementById("curves");
  if (!place) return;
  const [run] = data.runs;
  const first = ["loss", "knn_top1", "linear_top1", "lr", "grad_norm"];
  const rank = (name) => (first.includes(name) ? first.indexOf(name) : first.length);
  const names = Object.keys(run.curves).sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  names.forEach((name, at) => {
    const own = place.appendChild(document.createElement("div"));
    chart(own, name, "epoch", run.epochs, [[name, run.curves[name], colours[at % colours.length]]], false);
  });
}

function choices(select, names, chosen) {
  for (const name of names) select.add(new Option(name, name, false, name === chosen));
}

function overlay() {
  const place = document.getElementById("overlay");
  if (!place) return;
  const select = document.getElementById("curve");
  const names = [...new Set(data.runs.flatMap((run) => Object.keys(run.curves)))].sort();
  choices(select, names, "loss");
  const last = Math.max(0, ...data.runs.flatMap((run) => run.epochs));
  const xs = Array.from({ length: last }, (_, at) => at + 1);
  const draw = () => {
    const of = (run) => {
      const values = new Map(run.epochs.map((epoch, at) => [epoch, run.curves[select.value]?.[at]]));
      return xs.map((epoch) => values.get(epoch) ?? null);
    };
    const series = data.runs.map((run, at) => [run.name, of(run), colours[at % colours.length]]);
    chart(place, select.value, "epoch", xs, series, false);
  };
  select.addEventListener("change", draw);
  draw();
}

// A setting or a result of a run; names, which are no numbers, become places on the axis.
function axis(name) {
  const raw = data.runs.map((run) => run.results[name] ?? run.settings[name] ?? null);
  const numbers = raw.map((value) => (value === null || value === "" ? NaN : Number(value)));
  if (raw.every((value, at) => value === null || Number.isFinite(numbers[at]))) return [numbers, name];
  const known = [...new Set(raw.map(String))].sort();
  const legend = known.map((value, at) => `${at}: ${value}`).join(", ");
  return [raw.map((value) => known.indexOf(String(value))), `${name} (${legend})`];
}

function scatter() {
  const place = document.getElementById("scatter");
  if (!place) return;
  const [x, y] = ["x", "y"].map((id) => document.getElementById(id));
  const results = [...new Set(data.runs.flatMap((run) => Object.keys(run.results)))].sort();
  choices(x, [...data.varying, ...results], data.varying.find((name) => name !== "method") ?? results[0]);
  choices(y, results, ["linear_top1", "knn_top1", "final_loss"].find((name) => results.includes(name)));
  const draw = () => {
    const [xs, label] = axis(x.value);
    const ys = data.runs.map((run) => run.results[y.value] ?? null);
    const points = xs.map((at, index) => [at, ys[index], index]).filter(([at]) => Number.isFinite(at));
    points.sort((a, b) => a[0] - b[0]);
    const series = data.runs.map((run, index) => [
      run.name, points.map(([, value, own]) => (own === index ? value : null)), colours[index % colours.length],
    ]);
    chart(place, `${y.value} by ${x.value}`, label, points.map(([at]) => at), series, true);
  };
  [x, y].forEach((select) => select.addEventListener("change", draw));
  if (results.length) draw();
}

function sortable() {
  for (const table of document.querySelectorAll("table.sortable")) {
    table.querySelectorAll("th").forEach((head, column) => {
      head.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const text = (row) => row.cells[column].textContent;
        const compare = (a, b) => {
          const [left, right] = [text(a), text(b)];
          const numbers = [Number(left), Number(right)];
          // What has no value comes last, whichever way the others go.
          if (left === "-" || right === "-") return (left === "-") - (right === "-");
          const order = numbers.some(Number.isNaN) ? left.localeCompare(right) : numbers[0] - numbers[1];
          return up ? order : -order;
        };
        [...body.rows].sort(compare).forEach((row) => body.append(row));
      });
    });
  }
}

curves();
overlay();
scatter();
sortable();
