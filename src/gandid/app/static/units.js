// The ranked list of units, each with a picture of where it is active in this image, and a tick.
const list = document.createElement('ul');
list.className = 'units';
element.replaceChildren(list);
let image = null;
let drawn = '';

const thumbnail = (row, value) => {
  const canvas = document.createElement('canvas');
  const [h, w] = value.map;
  canvas.width = canvas.height = 96;
  canvas.setAttribute('aria-hidden', 'true');
  const pen = canvas.getContext('2d');
  const mask = document.createElement('canvas');
  mask.width = w;
  mask.height = h;
  const pixels = mask.getContext('2d').createImageData(w, h);
  const active = Uint8Array.from(atob(row.map), (c) => c.charCodeAt(0));
  active.forEach((value, p) => pixels.data.set([12, 14, 20, 235 - Math.round(value * 235 / 255)], 4 * p));
  mask.getContext('2d').putImageData(pixels, 0, 0);
  pen.imageSmoothingEnabled = value.smooth;
  pen.drawImage(image, 0, 0, 96, 96);
  pen.imageSmoothingEnabled = true;
  pen.drawImage(mask, 0, 0, 96, 96);
  return canvas;
};
const ticked = () => [...list.querySelectorAll('input:checked')].map((input) => Number(input.value));

list.addEventListener('change', () => trigger('input', { units: ticked().join('.') }));

const paint = () => {
  const value = props.value;
  if (!value || !value.rows) return;
  const signature = JSON.stringify(value);
  if (signature === drawn) return;
  drawn = signature;
  const focused = document.activeElement && list.contains(document.activeElement) ? document.activeElement.value : null;
  image = new Image();
  image.onload = () => {
    list.replaceChildren(...value.rows.map((row) => {
      const input = document.createElement('input');
      input.type = 'checkbox';
      input.value = row.unit;
      input.checked = row.on;
      const text = document.createElement('span');
      text.className = 'facts';
      const name = document.createElement('b');
      name.textContent = `Unit ${row.unit}`;
      const facts = document.createElement('span');
      facts.textContent = row.facts;
      text.append(name, facts);
      const label = document.createElement('label');
      label.append(input, thumbnail(row, value), text);
      const item = document.createElement('li');
      item.append(label);
      return item;
    }));
    if (focused !== null) list.querySelector(`input[value="${focused}"]`)?.focus();
    element.dataset.painted = Number(element.dataset.painted || 0) + 1;
  };
  image.src = value.image;
};
watch('value', paint);
paint();
