// The ranked list of units, each with a picture of where it is active in this image, and a tick.
const list = document.createElement('ul');
list.className = 'units';
element.replaceChildren(list);
const image = new Image();
let drawn = '';

const thumbnail = (pen, row, value) => {
  const [h, w] = value.map;
  const mask = document.createElement('canvas');
  [mask.width, mask.height] = [w, h];
  const pixels = mask.getContext('2d').createImageData(w, h);
  [...atob(row.map)].forEach((c, p) => pixels.data.set([12, 14, 20, 235 - Math.round(c.charCodeAt(0) * 235 / 255)], 4 * p));
  mask.getContext('2d').putImageData(pixels, 0, 0);
  pen.imageSmoothingEnabled = value.smooth;
  pen.drawImage(image, 0, 0, 96, 96);
  pen.imageSmoothingEnabled = true;
  pen.drawImage(mask, 0, 0, 96, 96);
};
list.addEventListener('change', () => trigger('input', { units: [...list.querySelectorAll('input:checked')].map((input) => input.value).join('.') }));
image.onload = () => {
  const value = props.value;
  const focused = list.contains(document.activeElement) ? document.activeElement.value : null;
  list.innerHTML = value.rows.map((row) => `<li><label><input type="checkbox" value="${row.unit}" ${row.on ? 'checked' : ''}>
    <canvas width="96" height="96" aria-hidden="true"></canvas><span class="facts"><b>Unit ${row.unit}</b><span>${row.facts}</span></span></label></li>`).join('');
  list.querySelectorAll('canvas').forEach((canvas, i) => thumbnail(canvas.getContext('2d'), value.rows[i], value));
  if (focused !== null) list.querySelector(`input[value="${focused}"]`)?.focus();
  element.dataset.painted = Number(element.dataset.painted || 0) + 1;
};
const paint = () => {
  const signature = JSON.stringify(props.value);
  if (!props.value?.rows || signature === drawn) return;
  drawn = signature;
  image.src = props.value.image;
};
watch('value', paint);
paint();
