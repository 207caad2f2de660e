// The stream of this tab: it says what the tab shows, and is told what is learned of it. A hidden tab has none.
let socket = null;
let shown = null;             // what the pictures show, from canvas.js
let pause = 500;              // milliseconds until the next attempt
const known = {};             // the last that was told of everything

const say = () => {
  if (shown && socket && socket.readyState === WebSocket.OPEN) socket.send(`${shown.fresh ? 'fresh' : ''}?${shown.query}`);
};
const turn = (detail) => document.dispatchEvent(new CustomEvent('gandid-turn', { detail }));
// What leads to a state that is shown by now is marked, and what is measured anew is pale.
const mark = () => {
  for (const button of shown ? document.querySelectorAll('#around [data-turn]') : []) {
    const [[name, value]] = new URLSearchParams(button.dataset.turn);
    button.setAttribute('aria-current', String(shown.now[name]) === value);
  }
  for (const place of document.querySelectorAll('[data-part]')) {
    place.ariaBusy = (known.stale || []).includes(place.dataset.part);
  }
  for (const label of shown ? document.querySelectorAll('#target label') : []) label.classList.toggle('absent', label.innerText.trim().endsWith(', none'));
};
document.addEventListener('click', (event) => {
  const button = event.target.closest('[data-turn]');
  if (button) turn(Object.fromEntries(new URLSearchParams(button.dataset.turn)));
});
const write = (news) => {
  for (const [name, text] of Object.entries(news)) {
    const place = document.querySelector(`[data-part=${name}]`);
    if (!place || place.said === text) continue;  // a move changes few parts, and pictures would be decoded anew
    place.innerHTML = place.said = text;
  }
  for (const [name, on] of [['stop', known.running], ['start', !known.running]]) {
    const button = document.getElementById(name);
    if (button) button.disabled = !on;
  }
  mark();
  if (shown && shown.fresh && known.opening) turn({ query: known.opening });
  else if (shown && known.ranked) {
    const [generator, layer, latents] = shown.ranked;
    if (known.ranked[0] === generator && known.ranked[1] === layer && latents !== null && known.ranked[2] > latents) turn({});
  }
};
const hear = (event) => {
  const news = JSON.parse(event.data);
  Object.assign(known, news);
  write(news);
};
const open = () => {
  if (document.hidden || socket) return;
  const address = new URL('live', document.baseURI);
  address.protocol = address.protocol.replace('http', 'ws');
  address.search = '';
  socket = new WebSocket(address);
  socket.onopen = () => { pause = 500; say(); };
  socket.onmessage = hear;
  socket.onclose = () => {
    socket = null;
    pause = Math.min(2 * pause, 8000);
    setTimeout(open, pause);
  };
};
document.addEventListener('visibilitychange', () => { if (document.hidden) socket?.close(); else open(); });
document.addEventListener('gandid-shown', (event) => { shown = event.detail; say(); write({ ...shown.html, ...known }); });
open();
