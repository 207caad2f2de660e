// The pictures of an experiment. The first is worked on: a click chooses an object, a brush limits the edit to a region.
// `element`, `props`, `trigger` and `watch` are Gradio's (gr.HTML, js_on_load).
const SVG = 'http://www.w3.org/2000/svg';
const make = (name, attributes = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

let view = null;              // what the server sent last
let labels = [];              // class of each pixel, per picture
let cells = null;             // the brushed positions, one byte each
let tool = 'choose';
let overlay = false;
let cursor = null;            // position [row, column] that the keyboard points at
let stroke = null;            // what the brush in hand sets positions to
let hovered = -1;             // class under the pointer

const root = make('div', { class: 'stage' });
const bar = make('div', { class: 'tools' });
const message = make('p', { class: 'hint', role: 'status', 'aria-live': 'polite' });
const legend = make('ul', { class: 'legend', hidden: '' });

const radio = (value, text) => {
  const input = make('input', { type: 'radio', name: 'tool', value });
  input.checked = value === tool;
  input.addEventListener('change', () => { tool = value; cursor = null; hint(); draw(); });
  return make('label', {}, input, make('span', {}, text));
};
const toggle = make('input', { type: 'checkbox', id: 'segmentation' });
toggle.addEventListener('change', () => { overlay = toggle.checked; draw(); });
const clear = make('button', { type: 'button', id: 'clear-region', disabled: '' }, 'Edit everywhere');
clear.addEventListener('click', () => { cells.fill(0); send(); draw(); });
const group = make('fieldset', {}, make('legend', { class: 'unseen' }, 'A click on the original image'),
  radio('choose', 'Choose object'), radio('brush', 'Brush region'));
bar.append(group, clear, make('label', { class: 'switch' }, toggle, make('span', {}, 'Segmentation')));

const figures = [0, 1, 2, 3].map((index) => {
  const image = make('img', { alt: '', draggable: 'false' });
  const shade = make('canvas', { 'aria-hidden': 'true' });
  const lines = document.createElementNS(SVG, 'svg');
  lines.setAttribute('aria-hidden', 'true');
  lines.setAttribute('preserveAspectRatio', 'none');
  const picture = make('div', { class: 'picture' }, image, shade, lines);
  const title = make('span', { class: 'title' });
  const note = make('span', { class: 'under' });
  const figure = make('figure', {}, make('figcaption', {}, title), picture, note);
  if (index === 0) {
    picture.id = 'original';
    picture.tabIndex = 0;
    picture.setAttribute('role', 'application');
    picture.setAttribute('aria-roledescription', 'image');
  }
  return { figure, picture, image, shade, lines, title, note };
});
root.append(...figures.map((f) => f.figure));
element.replaceChildren(root, bar, message, legend);
const original = figures[0].picture;

const at = (event) => {
  const box = original.getBoundingClientRect();
  const inside = (offset, length) => Math.min(0.999999, Math.max(0, offset / length));
  return [inside(event.clientY - box.top, box.height), inside(event.clientX - box.left, box.width)];
};
const classAt = ([y, x]) => labels[0][Math.floor(y * view.size[0]) * view.size[1] + Math.floor(x * view.size[1])];
const cellAt = ([y, x]) => [Math.floor(y * view.map[0]), Math.floor(x * view.map[1])];
const pointed = () => [(cursor[0] + 0.5) / view.map[0], (cursor[1] + 0.5) / view.map[1]];
const set = ([row, column], value) => { cells[row * view.map[1] + column] = value; };
const get = ([row, column]) => cells[row * view.map[1] + column];
const isObject = (k) => view.objects.includes(k);

const encode = () => {
  if (!cells.some((on) => on)) return '';
  let text = '';
  for (let i = 0; i < cells.length; i += 8) {
    let byte = 0;
    for (let bit = 0; bit < 8; bit++) byte = byte * 2 + (cells[i + bit] || 0);
    text += byte.toString(16).padStart(2, '0');
  }
  return `${view.map[0]}x${view.map[1]}:${text}`;
};
const send = () => trigger('input', { region: encode() });
const choose = (k) => {
  if (isObject(k)) trigger('input', { target: view.classes[k] });
  else message.textContent = `This is ${view.classes[k]}, which fills any hole: it has no units to ablate. Choose an object.`;
};
const hint = (k = -1) => {
  if (!view) return;
  if (tool === 'brush') message.textContent = 'Drag over the original image; the edit applies only where it is brushed. With the keyboard: arrow keys and Space.';
  else if (k < 0) message.textContent = 'Click an object in the original image to edit it. With the keyboard: arrow keys and Enter, or the list of objects.';
  else message.textContent = isObject(k) ? `${view.classes[k]}: ${k === view.target ? 'this is being edited' : 'click to edit it'}` : `${view.classes[k]} (background)`;
};

original.addEventListener('pointermove', (event) => {
  if (!view) return;
  if (stroke !== null) { set(cellAt(at(event)), stroke); draw(0); return; }
  const k = tool === 'choose' ? classAt(at(event)) : -1;
  if (k !== hovered) { hovered = k; hint(k); draw(0); }
});
original.addEventListener('pointerleave', () => { if (hovered >= 0) { hovered = -1; hint(); draw(0); } });
original.addEventListener('pointerdown', (event) => {
  if (!view || event.button) return;
  if (tool === 'choose') return;
  event.preventDefault();
  original.setPointerCapture(event.pointerId);
  const cell = cellAt(at(event));
  stroke = get(cell) ? 0 : 1;
  set(cell, stroke);
  draw(0);
});
const lift = () => { if (stroke !== null) { stroke = null; send(); draw(0); } };
original.addEventListener('pointerup', lift);
original.addEventListener('pointercancel', lift);
original.addEventListener('click', (event) => { if (view && tool === 'choose') choose(classAt(at(event))); });
original.addEventListener('blur', () => { cursor = null; draw(0); });
original.addEventListener('keydown', (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!view || !(step || event.key === 'Enter' || event.key === ' ')) return;
  event.preventDefault();
  if (!cursor) cursor = [Math.floor(view.map[0] / 2), Math.floor(view.map[1] / 2)];
  else if (step) cursor = cursor.map((c, i) => Math.min(view.map[i] - 1, Math.max(0, c + step[i])));
  if (!step) {
    if (tool === 'choose') choose(classAt(pointed()));
    else { set(cursor, get(cursor) ? 0 : 1); send(); }
  }
  if (step) hint(tool === 'choose' ? classAt(pointed()) : -1);
  draw(0);
});

const outline = (lines, data, name) => {
  for (const kind of ['casing', name]) {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', kind);
    path.setAttribute('d', data);
    lines.append(path);
  }
};
const draw = (only = -1) => {
  if (!view) return;
  const [height, width] = view.size;
  clear.disabled = !cells.some((on) => on);
  figures.forEach((f, i) => {
    if (only >= 0 && only !== i) return;
    const panel = view.panels[i];
    f.lines.setAttribute('viewBox', `0 0 ${width} ${height}`);
    f.lines.replaceChildren();
    f.shade.width = width;
    f.shade.height = height;
    const shade = f.shade.getContext('2d', { willReadFrequently: true });
    const pixels = shade.createImageData(width, height);
    const seen = labels[i];
    if (overlay && seen) {
      for (let p = 0; p < seen.length; p++) pixels.data.set([...view.colours[seen[p]], 165], 4 * p);
    } else if (i === 0 && hovered >= 0 && isObject(hovered)) {
      for (let p = 0; p < seen.length; p++) if (seen[p] !== hovered) pixels.data[4 * p + 3] = 110;
    }
    shade.putImageData(pixels, 0, 0);
    if (panel && panel.gone) outline(f.lines, panel.gone, 'gone');
    if (panel && panel.came) outline(f.lines, panel.came, 'came');
    if (i !== 0) return;
    outline(f.lines, view.outline, 'chosen');
    const [h, w] = view.map;
    const box = ([row, column], name) => {
      const rect = document.createElementNS(SVG, 'rect');
      for (const [key, value] of Object.entries({ x: column * width / w, y: row * height / h, width: width / w, height: height / h, class: name })) rect.setAttribute(key, value);
      f.lines.append(rect);
    };
    cells.forEach((on, c) => { if (on) box([Math.floor(c / w), c % w], 'cell'); });
    if (cursor) box(cursor, 'cursor');
  });
  original.dataset.tool = tool;
  legend.hidden = !overlay;
};
const paint = () => {
  const value = props.value;
  if (!value || !value.panels) return;
  view = value;
  labels = value.labels.map(decode);
  if (stroke === null) cells = Uint8Array.from(value.region.padEnd(value.map[0] * value.map[1], '0'), Number);
  root.dataset.pictures = value.panels.length;
  figures.forEach((f, i) => {
    const panel = value.panels[i];
    f.figure.classList.toggle('waiting', !panel);
    f.title.textContent = panel ? panel.title : value.waiting[i];
    f.note.innerHTML = panel ? panel.note : '';
    if (panel) { f.image.src = panel.src; f.image.alt = panel.alt; } else { f.image.removeAttribute('src'); f.image.alt = ''; }
    f.picture.style.aspectRatio = `${value.size[1]} / ${value.size[0]}`;
    f.image.classList.toggle('smooth', value.size[1] > 96);
  });
  original.setAttribute('aria-label', `${value.panels[0].alt} Arrow keys move, Enter chooses the object, Space brushes.`);
  legend.replaceChildren(...value.classes.map((name, k) => {
    const swatch = make('i', {});
    swatch.style.background = `rgb(${value.colours[k].join(' ')})`;
    return make('li', {}, swatch, name);
  }));
  history.replaceState(null, '', value.query ? `?${value.query}` : location.pathname);
  document.dispatchEvent(new CustomEvent('gandid-shown', { detail: value }));
  element.dataset.painted = Number(element.dataset.painted || 0) + 1;
  draw();
  if (!message.textContent) hint();
};
document.addEventListener('gandid-turn', ({ detail }) => trigger('query' in detail ? 'submit' : 'input', detail));
watch('value', paint);
paint();
