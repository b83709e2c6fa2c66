"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const canvas = at("canvas"), pen = canvas.getContext("2d"), slider = at("slider"), threshold = at("threshold");
  const small = matchMedia("(max-width: 46rem)");
  const loaded = new Map(), outlined = new Map();
  let current = 0, view = null, drawn = 0;

  const layers = data.layers.map((layer) => ({ ...layer }));
  for (const [number, layer] of layers.entries()) {
    const row = document.createElement("div"), label = document.createElement("label");
    const box = document.createElement("input"), opacity = document.createElement("input");
    row.className = "layer";
    box.type = "checkbox"; box.checked = layer.on; box.id = `layer-${layer.key}`;
    opacity.type = "range"; opacity.min = 0; opacity.max = 100; opacity.value = layer.opacity;
    opacity.id = `opacity-${layer.key}`;
    opacity.setAttribute("aria-label", `opacity of ${layer.name}`);
    label.append(box, ` ${number + 1} ${layer.name}`);
    row.append(label, opacity);
    at("layers").append(row);
    layer.box = box;
    box.addEventListener("change", () => { layer.on = box.checked; draw(); });
    opacity.addEventListener("input", () => { layer.opacity = Number(opacity.value); draw(); });
  }

  // Pictures are decoded when they are looked at, and few are kept.
  async function pictures(index) {
    if (!loaded.has(index)) {
      const opened = Promise.all(Object.entries(data.pictures[index]).map(async ([key, address]) => {
        const image = new Image();
        image.src = address;
        await image.decode();
        return [key, image];
      })).then(Object.fromEntries);
      loaded.set(index, opened);
      for (const old of loaded.keys()) if (loaded.size > 8 && old !== index) { loaded.delete(old); outlined.delete(old); }
    }
    return loaded.get(index);
  }

  function outlines(index, probability) {
    const level = Number(threshold.value), kept = outlined.get(index);
    if (kept && kept.level === level) return kept.picture;
    const { width, height } = probability;
    const picture = document.createElement("canvas");
    picture.width = width; picture.height = height;
    const brush = picture.getContext("2d", { willReadFrequently: true });
    brush.drawImage(probability, 0, 0);
    const pixels = brush.getImageData(0, 0, width, height), values = pixels.data;
    const cell = new Uint8Array(width * height);
    for (let i = 0; i < cell.length; i++) cell[i] = values[4 * i] > 255 * level ? 1 : 0;
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const edge = (x + 1 < width && cell[i] !== cell[i + 1]) || (y + 1 < height && cell[i] !== cell[i + width]);
        values[4 * i] = 230; values[4 * i + 1] = 159; values[4 * i + 2] = 0; values[4 * i + 3] = edge ? 255 : 0;
      }
    }
    brush.putImageData(pixels, 0, 0);
    outlined.set(index, { level, picture });
    return picture;
  }

  function fit() {
    const [height, width] = data.shape;
    view = { scale: Math.min(canvas.width / width, canvas.height / height), x: width / 2, y: height / 2 };
  }

  function resize() {
    const width = Math.max(1, canvas.clientWidth), ratio = devicePixelRatio || 1;
    const tall = Math.min(width * data.shape[0] / data.shape[1], innerHeight * (small.matches ? 0.6 : 0.7));
    const before = view && canvas.width ? view.scale / canvas.width : null;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.max(1, Math.round(tall * ratio));
    canvas.style.height = `${canvas.height / ratio}px`;
    if (before === null) fit(); else view.scale = before * canvas.width;
    draw();
  }

  async function draw() {
    const turn = ++drawn, index = current;
    const images = await pictures(index);
    if (turn !== drawn) return;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.globalAlpha = 1;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const [height, width] = data.shape;
    pen.setTransform(view.scale, 0, 0, view.scale, canvas.width / 2 - view.x * view.scale, canvas.height / 2 - view.y * view.scale);
    pen.imageSmoothingEnabled = view.scale < 2;
    for (const layer of layers) {
      const picture = layer.key === "outlines" ? outlines(index, images.probability) : images[layer.key];
      if (!layer.on || !picture) continue;
      pen.globalAlpha = layer.opacity / 100;
      pen.drawImage(picture, 0, 0, width, height);
    }
    canvas.dataset.section = data.shown[index];
    canvas.dataset.drawn = turn;
    for (const near of [index + 1, index - 1]) if (near >= 0 && near < data.shown.length) pictures(near);
  }

  function show(index) {
    current = Math.max(0, Math.min(data.shown.length - 1, index));
    slider.value = current;
    const z = data.shown[current];
    at("where").textContent = `section ${z} of ${data.sections} (from 0)`;
    at("about").textContent = data.about[current];
    canvas.setAttribute("aria-label", `section ${z}`);
    histogram();
    mark();
    draw();
  }

  function zoom(by, x = canvas.width / 2, y = canvas.height / 2) {
    const scale = Math.max(0.02, Math.min(64, view.scale * by));
    view.x += (x - canvas.width / 2) * (1 / view.scale - 1 / scale);
    view.y += (y - canvas.height / 2) * (1 / view.scale - 1 / scale);
    view.scale = scale;
    draw();
  }

  function move(dx, dy) { view.x -= dx / view.scale; view.y -= dy / view.scale; draw(); }

  // Charts

  const make = (name, attributes, into) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    into.append(element);
    return element;
  };
  const words = (text, x, y, into, anchor = "start") => {
    make("text", { x, y, "font-size": 11, fill: "var(--faint)", "text-anchor": anchor }, into).textContent = text;
  };

  function histogram() {
    const chart = at("histogram");
    chart.replaceChildren();
    chart.setAttribute("viewBox", "0 0 400 170");
    const most = Math.log10(1 + Math.max(...data.histogram, ...(data.histograms[current] || [0])));
    const bar = (values, colour, opacity) => {
      for (const [bin, value] of values.entries()) {
        const tall = most ? 145 * Math.log10(1 + value) / most : 0;
        make("rect", { x: 5 + bin * 390 / values.length, y: 150 - tall, width: 390 / values.length - 0.5, height: tall, fill: colour, opacity }, chart);
      }
    };
    bar(data.histogram, "var(--faint)", 0.45);
    bar(data.histograms[current] || [], "var(--accent)", 0.65);
    words("0 = membrane", 5, 165, chart); words("p", 200, 165, chart, "middle"); words("1 = cell", 395, 165, chart, "end");
  }

  const place = (z) => 32 + 360 * (data.sections > 1 ? z / (data.sections - 1) : 0.5);
  function series() {
    const chart = at("series");
    chart.setAttribute("viewBox", "0 0 400 170");
    for (const [level, name] of [[0, "0"], [0.5, "0.5"], [1, "1"]]) {
      make("line", { x1: 32, x2: 392, y1: 150 - 140 * level, y2: 150 - 140 * level, stroke: "var(--line)" }, chart);
      words(name, 26, 154 - 140 * level, chart, "end");
    }
    for (const [values, colour] of [[data.series.cell, "var(--accent)"], [data.series.doubt, "var(--merger)"]]) {
      let path = "", pen = "M";
      values.forEach((value, i) => {
        if (value === null) { pen = "M"; return; }
        path += `${pen}${place(data.series.z[i]).toFixed(1)},${(150 - 140 * value).toFixed(1)}`; pen = "L";
      });
      if (values.length === 1 && values[0] !== null) {
        make("circle", { cx: place(data.series.z[0]), cy: 150 - 140 * values[0], r: 3, fill: colour }, chart);
      } else make("path", { d: path, fill: "none", stroke: colour, "stroke-width": 1.8 }, chart);
    }
    words("0", 32, 165, chart); words(String(data.sections - 1), 392, 165, chart, "end");
    make("line", { id: "mark", y1: 8, y2: 150, stroke: "var(--ink)", "stroke-dasharray": "3 3" }, chart);
    chart.addEventListener("click", (event) => {
      const box = chart.getBoundingClientRect(), wide = Math.min(box.width, box.height * 400 / 170);
      const x = (event.clientX - box.left - (box.width - wide) / 2) * 400 / wide;
      nearest((x - 32) / 360 * (data.sections - 1));
    });
  }
  function mark() {
    const line = at("mark"), x = place(data.shown[current]);
    line.setAttribute("x1", x); line.setAttribute("x2", x);
  }
  function nearest(z) {
    let best = 0;
    data.shown.forEach((shown, i) => { if (Math.abs(shown - z) < Math.abs(data.shown[best] - z)) best = i; });
    show(best);
  }

  // Hands

  slider.addEventListener("input", () => show(Number(slider.value)));
  const crossing = () => { at("crossing").textContent = Number(threshold.value).toFixed(2); };
  threshold.addEventListener("input", () => { crossing(); draw(); });
  at("previous").addEventListener("click", () => show(current - 1));
  at("next").addEventListener("click", () => show(current + 1));
  at("closer").addEventListener("click", () => zoom(1.5));
  at("farther").addEventListener("click", () => zoom(1 / 1.5));
  at("fit").addEventListener("click", () => { fit(); draw(); });
  for (const button of document.querySelectorAll("button[data-z]")) {
    button.addEventListener("click", () => { nearest(Number(button.dataset.z)); at("viewer").scrollIntoView({ block: "nearest" }); });
  }

  const inCanvas = (event) => {
    const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 200), ...inCanvas(event));
  }, { passive: false });
  const fingers = new Map();
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); fingers.set(event.pointerId, inCanvas(event)); });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = inCanvas(event);
    const other = [...fingers.entries()].find(([id]) => id !== event.pointerId);
    if (other) {
      const span = (point) => Math.hypot(point[0] - other[1][0], point[1] - other[1][1]);
      if (span(before) > 1) zoom(span(now) / span(before), (now[0] + other[1][0]) / 2, (now[1] + other[1][1]) / 2);
    } else move(now[0] - before[0], now[1] - before[1]);
    fingers.set(event.pointerId, now);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));

  const step = () => canvas.width / 8;
  const keys = {
    ArrowLeft: () => show(current - 1), ArrowRight: () => show(current + 1),
    PageUp: () => show(current - 10), PageDown: () => show(current + 10),
    Home: () => show(0), End: () => show(data.shown.length - 1),
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), "0": () => { fit(); draw(); },
    w: () => move(0, step()), s: () => move(0, -step()), a: () => move(step(), 0), d: () => move(-step(), 0),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.type === "range") return;
    const paging = ["PageUp", "PageDown", "Home", "End"].includes(event.key) && event.target !== canvas;
    const layer = layers[Number(event.key) - 1];
    if (keys[event.key] && !paging) { keys[event.key](); event.preventDefault(); }
    else if (layer) { layer.on = layer.box.checked = !layer.on; draw(); }
  });

  addEventListener("resize", resize);
  crossing();
  series();
  show(0);
  resize();
})();
