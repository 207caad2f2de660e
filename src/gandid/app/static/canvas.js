// The pictures of an experiment. In the first a click chooses an object; on each a brush limits the edit to a region, and a
// press that lasts shows the next of original, live and held in its place. What was shown before stands under them.
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
let size = 1;                 // positions that the brush is wide
let sent = 0;                 // when the region was sent last
let moved = -Infinity;        // when an edit was last put into the history; that of the page's opening is none
let flip = null;              // the timer of a press, and then the picture that shows another
let flipped = false;          // whether the last press was a long one
const HOLD = 220;             // milliseconds after which a press is a long one
const DRAG = 900;             // moves that follow within so many are one in the history
const PATIENCE = 4000;        // milliseconds after which a question without an answer is given up
let asking = null;            // the timer of a question that is under way
let next = null;              // what is asked after it
const past = [];              // what was shown: the query, a small picture, and its words

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
const button = (id, text, act) => {
  const node = make('button', { type: 'button', id }, text);
  node.addEventListener('click', act);
  return node;
};
const clear = button('clear-region', 'Edit everywhere', () => { cells.fill(0); send(); draw(); });
const reset = button('reset', 'Reset', () => ask({ query: view.reset }));
const undo = button('undo', 'Undo', () => history.back());
const redo = button('redo', 'Redo', () => history.forward());
const wide = make('select', { id: 'brush-size', 'aria-label': 'Width of the brush' });
wide.append(...[1, 2, 3, 5, 9].map((n) => make('option', { value: n }, `${n} wide`)));
wide.addEventListener('change', () => { size = Number(wide.value); });
const group = make('fieldset', {}, make('legend', { class: 'unseen' }, 'A click on the pictures'),
  radio('choose', 'Choose object'), radio('brush', 'Brush region'), radio('erase', 'Erase'));
const film = make('ol', { class: 'film', 'aria-label': 'What was shown before: the object left, live and held' });
bar.append(group, wide, clear, make('label', { class: 'switch' }, toggle, make('span', {}, 'Segmentation')), undo, redo, reset);

const figures = [0, 1, 2, 3].map((index) => {
  const image = make('img', { alt: '', draggable: 'false' });
  const shade = make('canvas', { 'aria-hidden': 'true' });
  const lines = document.createElementNS(SVG, 'svg');
  lines.setAttribute('aria-hidden', 'true');
  lines.setAttribute('preserveAspectRatio', 'none');
  const picture = make('div', { class: 'picture' }, image, shade, lines);
  const title = make('span', { class: 'title' });
  const note = make('span', { class: 'under' });
  const figure = make('figure', index === 3 ? { class: 'heat' } : {}, make('figcaption', {}, title), picture, note);
  if (index === 0) {
    picture.id = 'original';
    picture.tabIndex = 0;
    picture.setAttribute('role', 'application');
    picture.setAttribute('aria-roledescription', 'image');
  }
  return { figure, picture, image, shade, lines, title, note };
});
root.append(...figures.map((f) => f.figure));
element.replaceChildren(root, bar, message, legend, film);
const original = figures[0].picture;

const at = (event) => {
  const box = event.currentTarget.getBoundingClientRect();
  const inside = (offset, length) => Math.min(0.999999, Math.max(0, offset / length));
  return [inside(event.clientY - box.top, box.height), inside(event.clientX - box.left, box.width)];
};
const classAt = ([y, x]) => labels[0][Math.floor(y * view.size[0]) * view.size[1] + Math.floor(x * view.size[1])];
const cellAt = ([y, x]) => [Math.floor(y * view.map[0]), Math.floor(x * view.map[1])];
const pointed = () => [(cursor[0] + 0.5) / view.map[0], (cursor[1] + 0.5) / view.map[1]];
const set = ([row, column], value) => {
  const from = Math.floor((size - 1) / 2);
  for (let i = row - from; i < row - from + size; i++) {
    for (let j = column - from; j < column - from + size; j++) if (i >= 0 && j >= 0 && i < view.map[0] && j < view.map[1]) cells[i * view.map[1] + j] = value;
  }
};
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
// One question at a time; of those that come meanwhile only what they say together is asked then.
const ask = (detail) => {
  if (asking !== null) {
    next = detail.query === undefined ? { ...next, ...detail } : detail;
    return;
  }
  asking = setTimeout(answered, PATIENCE);
  trigger('input', detail);
};
const answered = () => {
  clearTimeout(asking);
  asking = null;
  if (next) { const then = next; next = null; ask(then); }
};
const send = () => { sent = performance.now(); ask({ region: encode() }); };
const choose = (k) => {
  if (isObject(k)) ask({ target: view.classes[k] });
  else message.textContent = `This is ${view.classes[k]}, which fills any hole: it has no units to ablate. Choose an object.`;
};
const hint = (k = -1) => {
  if (!view) return;
  if (tool !== 'choose') message.textContent = 'Drag over a picture; the edit applies only where it is brushed. With the keyboard: arrow keys and Space.';
  else if (k < 0) message.textContent = 'Click an object in the original image to edit it. Press and hold a picture to see the next in its place. With the keyboard: arrow keys, Enter, Space.';
  else message.textContent = isObject(k) ? `${view.classes[k]}: ${k === view.target ? 'this is being edited' : 'click to edit it'}` : `${view.classes[k]} (background)`;
};

// The picture that is seen in place of another: live for the original, held for live, and the original for the others.
const show = (i, other) => {
  const [f, panel] = [figures[i], view.panels[other]];
  f.image.src = panel.src;
  f.title.textContent = panel.title;
  f.figure.classList.toggle('flipped', other !== i);
};
const unflip = () => {
  clearTimeout(flip);
  flip = null;
  figures.forEach((f, i) => { if (f.figure.classList.contains('flipped') && view.panels[i]) show(i, i); });
};
const turnOver = (i) => { flipped = true; show(i, view.panels.length > 1 ? (i + 1) % 3 : 0); };
figures.forEach(({ picture }, i) => {
  picture.addEventListener('pointermove', (event) => {
    if (!view) return;
    if (stroke !== null) {
      set(cellAt(at(event)), stroke);
      draw();
      if (performance.now() > sent + 120) send();
      return;
    }
    const k = i === 0 && tool === 'choose' ? classAt(at(event)) : -1;
    if (k !== hovered) { hovered = k; hint(k); draw(0); }
  });
  picture.addEventListener('pointerleave', () => { unflip(); if (hovered >= 0) { hovered = -1; hint(); draw(0); } });
  picture.addEventListener('pointerdown', (event) => {
    if (!view || event.button || !view.panels[i]) return;
    flipped = false;
    if (tool === 'choose') { flip = setTimeout(() => turnOver(i), i ? 60 : HOLD); return; }
    event.preventDefault();
    picture.setPointerCapture(event.pointerId);
    stroke = tool === 'brush' ? 1 : 0;
    set(cellAt(at(event)), stroke);
    draw();
  });
  const lift = () => { unflip(); if (stroke !== null) { stroke = null; send(); draw(); } };
  picture.addEventListener('pointerup', lift);
  picture.addEventListener('pointercancel', lift);
  picture.addEventListener('contextmenu', (event) => event.preventDefault());
});
original.addEventListener('click', (event) => { if (view && tool === 'choose' && !flipped) choose(classAt(at(event))); });
original.addEventListener('keyup', unflip);
original.addEventListener('blur', () => { cursor = null; draw(0); });
original.addEventListener('keydown', (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!view || !(step || event.key === 'Enter' || event.key === ' ')) return;
  event.preventDefault();
  if (!cursor) cursor = [Math.floor(view.map[0] / 2), Math.floor(view.map[1] / 2)];
  else if (step) cursor = cursor.map((c, i) => Math.min(view.map[i] - 1, Math.max(0, c + step[i])));
  if (!step) {
    if (tool !== 'choose') { set(cursor, tool === 'brush' ? 1 : 0); send(); }
    else if (event.key === ' ') turnOver(0);
    else choose(classAt(pointed()));
  }
  if (step) hint(tool === 'choose' ? classAt(pointed()) : -1);
  draw(0);
});

const outline = (lines, data, name, colour = '') => {
  for (const kind of ['casing', name]) {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', kind);
    path.setAttribute('d', data);
    if (kind === 'other') path.style.stroke = colour;
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
    if (i === 0) outline(f.lines, view.outline, 'chosen');
    if (i === 0) view.beside.forEach((each) => outline(f.lines, each.outline, 'other', `rgb(${view.colours[each.class].join(' ')})`));
    if (!panel) return;
    const [h, w] = view.map;
    const box = ([row, column], name, colour = '') => {
      const rect = document.createElementNS(SVG, 'rect');
      for (const [key, value] of Object.entries({ x: column * width / w, y: row * height / h, width: width / w, height: height / h, class: name })) rect.setAttribute(key, value);
      rect.style.fill = colour;
      f.lines.append(rect);
    };
    for (const each of view.beside) {
      [...each.region].forEach((on, c) => { if (on === '1') box([Math.floor(c / w), c % w], 'cell', `rgb(${view.colours[each.class].join(' ')})`); });
    }
    cells.forEach((on, c) => { if (on) box([Math.floor(c / w), c % w], 'cell'); });
    if (cursor && i === 0) box(cursor, 'cursor');
  });
  wide.disabled = tool === 'choose';
  root.dataset.tool = tool;
  legend.hidden = !overlay;
};
// Every state has its place in the history of the browser; a drag is one.
const remember = () => {
  const known = history.state && history.state.gandid;
  const address = view.query ? `?${view.query}` : location.pathname;
  const place = known ? known.place : 0;
  if (!known || known.query !== view.query) {
    const next = known && performance.now() > moved + DRAG ? place + 1 : place;
    if (known) moved = performance.now();
    history[next > place ? 'pushState' : 'replaceState']({ gandid: { query: view.query, place: next } }, '', address);
    past.length = next;  // what was undone is gone
  }
  const here = history.state.gandid.place;
  past[here] = { query: view.query, src: view.panels[Math.min(1, view.panels.length - 1)].src, caption: view.caption };
  undo.disabled = here === 0;
  redo.disabled = here === past.length - 1;
  const entries = [...past.entries()].filter(([, each]) => each);
  film.hidden = entries.length < 2;
  film.replaceChildren(...entries.slice(-10).map(([i, each]) => {
    const again = make('button', { type: 'button' }, make('img', { src: each.src, alt: '' }), make('span', {}, each.caption));
    again.addEventListener('click', () => { if (i !== here) history.go(i - here); });
    if (i === here) again.setAttribute('aria-current', 'true');
    return make('li', {}, again);
  }));
};
addEventListener('popstate', (event) => {
  const asked = event.state && event.state.gandid ? event.state.gandid.query : location.search.slice(1);
  if (view && asked !== view.query) ask({ query: asked });
});
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
    f.figure.classList.remove('flipped');
    f.image.classList.toggle('smooth', value.size[1] > 96);
  });
  original.setAttribute('aria-label', `${value.panels[0].alt} Arrow keys move, Enter chooses the object, Space shows the edited image or brushes.`);
  legend.replaceChildren(...value.classes.map((name, k) => {
    const swatch = make('i', {});
    swatch.style.background = `rgb(${value.colours[k].join(' ')})`;
    return make('li', {}, swatch, name);
  }));
  remember();
  document.dispatchEvent(new CustomEvent('gandid-shown', { detail: value }));
  element.dataset.painted = Number(element.dataset.painted || 0) + 1;
  draw();
  if (!message.textContent) hint();
};
document.addEventListener('gandid-turn', ({ detail }) => ask(detail));
watch('value', paint);
paint();
