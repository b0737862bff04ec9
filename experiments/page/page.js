// Draws the charts of a report, plays its videos, and loads its newer version from a server.
// The texts of the page reach it as JSON and are only ever set as text.
(() => {
  "use strict";
  const LEFT = 54, RIGHT = 12, TOP = 8, BOTTOM = 36;
  const views = new Map(); // by id of a group: hidden names, and the frames that are shown

  const view = (group) => {
    if (!views.has(group.id)) views.set(group.id, { hidden: new Set(), range: null });
    return views.get(group.id);
  };

  function add(parent, name, attributes = {}, text = "") {
    const isDrawn = name === "svg" || parent instanceof SVGElement;
    const node = isDrawn
      ? document.createElementNS("http://www.w3.org/2000/svg", name)
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return parent.appendChild(node);
  }

  function ticks(from, to, count) {
    const rough = (to - from) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 2.5, 5, 10].find((x) => x * power >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(from / step - 1e-9); i * step <= to + step * 1e-9; i++) found.push(i * step);
    return found;
  }

  function short(number) {
    const size = Math.abs(number);
    const [unit, letter] = size >= 1e9 ? [1e9, "B"] : size >= 1e6 ? [1e6, "M"] : size >= 1e4 ? [1e3, "k"] : [1, ""];
    return String(Number((number / unit).toPrecision(6))).replace("-", "−") + letter;
  }

  const exact = (number) =>
    Math.abs(number) >= 1e4
      ? Math.round(number).toLocaleString("en-US").replace("-", "−")
      : String(Number(number.toPrecision(4))).replace("-", "−");

  const extent = (numbers) => [Math.min(...numbers), Math.max(...numbers)];

  function scaleOf(lines, range, width, height) {
    let [x0, x1] = range || extent(lines.flatMap((line) => extent(line.x)));
    if (!range) x0 = Math.min(0, x0);
    if (x1 <= x0) x1 = x0 + 1;
    const values = [];
    for (const line of lines)
      line.x.forEach((x, i) => {
        if (x < x0 || x > x1) return;
        for (const row of [line.y, line.low, line.high]) if (row[i] != null) values.push(row[i]);
      });
    let [y0, y1] = values.length ? extent(values) : [0, 1];
    const margin = (y1 - y0) * 0.06 || Math.abs(y0) * 0.1 || 1;
    y0 -= margin;
    y1 += margin;
    return {
      x0, x1, y0, y1,
      x: (v) => LEFT + ((v - x0) / (x1 - x0)) * (width - LEFT - RIGHT),
      y: (v) => height - BOTTOM - ((v - y0) / (y1 - y0)) * (height - TOP - BOTTOM),
      frames: (pixel) => x0 + ((pixel - LEFT) / (width - LEFT - RIGHT)) * (x1 - x0),
    };
  }

  function pathOf(xs, ys, scale) {
    let isNew = true, path = "";
    xs.forEach((x, i) => {
      if (ys[i] == null) isNew = true;
      else {
        path += `${isNew ? "M" : "L"}${scale.x(x).toFixed(1)} ${scale.y(ys[i]).toFixed(1)}`;
        isNew = false;
      }
    });
    return path;
  }

  function drawAxes(svg, scale, width, height, counter) {
    for (const value of ticks(scale.y0, scale.y1, 4)) {
      const y = scale.y(value);
      add(svg, "line", { x1: LEFT, x2: width - RIGHT, y1: y, y2: y, stroke: "#e4e7eb" });
      add(svg, "text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, short(value));
    }
    const bottom = height - BOTTOM;
    add(svg, "line", { x1: LEFT, x2: width - RIGHT, y1: bottom, y2: bottom, stroke: "#8c959f" });
    const shown = ticks(scale.x0, scale.x1, Math.max(2, Math.floor(width / 90)));
    for (const value of shown) {
      const x = scale.x(value);
      add(svg, "line", { x1: x, x2: x, y1: bottom, y2: bottom + 4, stroke: "#8c959f" });
      add(svg, "text", { x, y: bottom + 16, "text-anchor": x > width - 24 ? "end" : "middle" }, short(value));
    }
    add(svg, "text", { x: (LEFT + width - RIGHT) / 2, y: height - 4, "text-anchor": "middle" }, counter);
  }

  function drawLine(svg, line, scale, clip) {
    const shape = add(svg, "g", { "clip-path": `url(#${clip})`, fill: "none" });
    if (line.low.length) {
      const back = pathOf([...line.x].reverse(), [...line.high].reverse(), scale).replace("M", "L");
      const band = pathOf(line.x, line.low, scale) + back + "Z";
      add(shape, "path", { d: band, fill: line.color, "fill-opacity": 0.16 });
    }
    const look = { stroke: line.color, "stroke-width": 1.8, "stroke-dasharray": line.dash };
    add(shape, "path", { d: pathOf(line.x, line.y, scale), ...look, "stroke-linejoin": "round" });
    const seen = line.x.map((x, i) => [x, line.y[i]]).filter(([x, y]) => y != null && x >= scale.x0 && x <= scale.x1);
    if (seen.length < 13)
      for (const [x, y] of seen) add(shape, "circle", { cx: scale.x(x), cy: scale.y(y), r: 2.6, fill: line.color });
    for (const stop of line.stops) {
      const near = nearest(line, stop);
      if (near < 0) continue;
      const x = scale.x(stop), y = scale.y(line.y[near]);
      add(shape, "path", { d: `M${x - 4} ${y - 4}l8 8m0-8l-8 8`, stroke: line.color, "stroke-width": 2 });
    }
  }

  function nearest(line, frames) {
    let best = -1;
    line.x.forEach((x, i) => {
      if (line.y[i] != null && (best < 0 || Math.abs(x - frames) < Math.abs(line.x[best] - frames))) best = i;
    });
    return best;
  }

  let count = 0;
  function draw(chart) {
    const plot = chart.querySelector(".plot");
    const width = plot.clientWidth, height = plot.clientHeight;
    if (!width) return; // in a closed group
    chart.data ??= JSON.parse(chart.querySelector("script").textContent);
    const { hidden, range } = view(chart.closest(".group"));
    const lines = chart.data.lines.filter((line) => line.x.length && !hidden.has(line.name));
    plot.replaceChildren();
    const svg = add(plot, "svg", { viewBox: `0 0 ${width} ${height}` });
    chart.lines = lines;
    if (!lines.length) {
      add(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "All lines are hidden.");
      return;
    }
    const scale = (chart.scale = scaleOf(lines, range, width, height));
    drawAxes(svg, scale, width, height, plot.dataset.counter);
    const clip = `clip-${++count}`;
    const box = { x: LEFT - 3, y: TOP - 3, width: width - LEFT - RIGHT + 6, height: height - TOP - BOTTOM + 6 };
    add(add(svg, "clipPath", { id: clip }), "rect", box);
    for (const line of lines) drawLine(svg, line, scale, clip);
    chart.over = add(svg, "g");
  }

  function showValues(chart, pixel) {
    const plot = chart.querySelector(".plot");
    plot.querySelector(".tip")?.remove();
    chart.over?.replaceChildren();
    if (pixel == null || !chart.lines?.length) return;
    const scale = chart.scale, asked = scale.frames(pixel);
    const found = chart.lines.map((line) => [line, nearest(line, asked)]).filter(([, i]) => i >= 0);
    if (!found.length) return;
    const frames = found.map(([line, i]) => line.x[i]).reduce((a, b) => (Math.abs(b - asked) < Math.abs(a - asked) ? b : a));
    const x = scale.x(frames);
    add(chart.over, "line", { x1: x, x2: x, y1: TOP, y2: plot.clientHeight - BOTTOM, stroke: "#8c959f", "stroke-dasharray": "3 3" });
    const tip = add(plot, "div", { class: "tip" });
    add(tip, "strong", {}, `${exact(frames)} ${plot.dataset.counter}`);
    const table = add(add(tip, "table"), "tbody");
    for (const [line, i] of found) {
      const px = scale.x(line.x[i]);
      if (px >= LEFT && px <= plot.clientWidth)
        add(chart.over, "circle", { cx: px, cy: scale.y(line.y[i]), r: 4, fill: line.color, stroke: "#fff" });
      const row = add(table, "tr");
      const name = add(row, "td");
      const key = add(name, "svg", { class: "swatch", viewBox: "0 0 26 8" });
      add(key, "line", { x1: 1, y1: 4, x2: 25, y2: 4, stroke: line.color, "stroke-width": 2.5, "stroke-dasharray": line.dash });
      name.append(line.label);
      add(row, "td", { class: "number" }, exact(line.y[i]));
      const range = line.low.length && line.low[i] !== line.high[i];
      add(row, "td", { class: "number" }, range ? ` ${exact(line.low[i])} to ${exact(line.high[i])}` : "");
    }
    if (x > plot.clientWidth / 2) tip.style.left = "4px";
    else tip.style.right = "4px";
  }

  function drawGroup(group) {
    for (const button of group.querySelectorAll(".legend [data-name]"))
      button.setAttribute("aria-pressed", !view(group).hidden.has(button.dataset.name));
    group.querySelector(".reset").hidden = !view(group).range;
    group.querySelectorAll(".chart").forEach(draw);
  }

  function setUpChart(chart, group) {
    const plot = chart.querySelector(".plot");
    const place = (event) => event.clientX - plot.getBoundingClientRect().left;
    let start = null;
    plot.addEventListener("pointerdown", (event) => {
      start = place(event);
      plot.setPointerCapture(event.pointerId);
      showValues(chart, start);
    });
    plot.addEventListener("pointermove", (event) => {
      showValues(chart, place(event));
      if (start === null || !chart.over) return;
      const [left, right] = [start, place(event)].sort((a, b) => a - b);
      const size = { x: left, width: right - left, y: TOP, height: plot.clientHeight - TOP - BOTTOM };
      add(chart.over, "rect", { ...size, fill: "#0072b2", "fill-opacity": 0.15 });
    });
    plot.addEventListener("pointerup", (event) => {
      const [left, right] = [start, place(event)].sort((a, b) => a - b);
      if (start !== null && right - left > 8 && chart.lines?.length) {
        const { scale } = chart;
        view(group).range = [Math.max(scale.x0, scale.frames(left)), Math.min(scale.x1, scale.frames(right))];
        drawGroup(group);
      }
      start = null;
    });
    plot.addEventListener("pointercancel", () => (start = null));
    plot.addEventListener("pointerleave", () => start === null && showValues(chart, null));
    plot.addEventListener("dblclick", () => showAll(group));
  }

  function showAll(group) {
    view(group).range = null;
    drawGroup(group);
  }

  function setUpGroup(group) {
    for (const button of group.querySelectorAll(".legend [data-name]"))
      button.addEventListener("click", () => {
        const { hidden } = view(group), { name } = button.dataset;
        if (!hidden.delete(name)) hidden.add(name);
        drawGroup(group);
      });
    group.querySelector(".reset").addEventListener("click", () => showAll(group));
    group.addEventListener("toggle", () => drawGroup(group));
    group.querySelectorAll(".chart").forEach((chart) => setUpChart(chart, group));
    drawGroup(group);
  }

  // Controls below a video, so that they do not cover it.
  function setUpVideo(video) {
    video.controls = false;
    const bar = document.createElement("div");
    bar.className = "controls";
    const play = add(bar, "button", { type: "button" }, "Play");
    const place = add(bar, "input", { type: "range", min: 0, max: 1, step: "any", value: 0, "aria-label": "Position in the video" });
    const time = add(bar, "output");
    const show = () => {
      play.textContent = video.paused ? "Play" : "Pause";
      place.max = video.duration || 1;
      place.value = video.currentTime;
      time.textContent = `${video.currentTime.toFixed(1)} / ${(video.duration || 0).toFixed(1)} s`;
    };
    const toggle = () => (video.paused ? video.play() : video.pause());
    play.addEventListener("click", toggle);
    video.addEventListener("click", toggle);
    place.addEventListener("input", () => (video.currentTime = place.value));
    for (const name of ["play", "pause", "timeupdate", "loadedmetadata"]) video.addEventListener(name, show);
    show();
    video.after(bar);
  }

  function setUp(root) {
    root.querySelectorAll(".group").forEach(setUpGroup);
    root.querySelectorAll("video").forEach(setUpVideo);
  }

  const originals = new Map(); // of each section, before the script changed it
  function remember(root) {
    for (const section of root.querySelectorAll("[id^=section-]")) originals.set(section.id, section.outerHTML);
  }

  // Replaces the sections that changed; groups stay open or closed, zoomed and filtered.
  function replace(page) {
    const fresh = [...page.querySelectorAll("[id^=section-]")];
    const isKnown = fresh.every((section) => document.getElementById(section.id));
    if (!isKnown || fresh.length !== originals.size) return location.reload();
    for (const section of fresh) {
      if (originals.get(section.id) === section.outerHTML) continue;
      originals.set(section.id, section.outerHTML);
      const old = document.getElementById(section.id);
      for (const group of section.querySelectorAll(".group")) {
        const before = document.getElementById(group.id);
        if (before) group.open = before.open;
      }
      old.replaceWith(section);
      setUp(section);
    }
  }

  async function refresh() {
    const state = () => document.getElementById("connection");
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const text = await answer.text();
      replace(new DOMParser().parseFromString(text, "text/html"));
      state().textContent = "";
    } catch {
      state().textContent = " The server does not answer; the page shows what it last said.";
    }
  }

  remember(document);
  setUp(document);
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // only the height changed: a phone's address bar
    width = window.innerWidth;
    document.querySelectorAll(".group").forEach(drawGroup);
  });
  const seconds = Number(document.body.dataset.refresh);
  if (seconds) setInterval(refresh, seconds * 1000);
})();
