// Sends a checkpoint, and turns the page to it.
const input = element.querySelector('input');
const status = element.querySelector('[role=status]');
input.addEventListener('change', async () => {
  const [file] = input.files;
  if (!file) return;
  status.className = '';
  status.textContent = `Reading ${file.name} …`;
  input.disabled = true;
  try {
    const answer = await fetch(`upload?name=${encodeURIComponent(file.name)}`, { method: 'POST', body: file });
    const text = await answer.text();
    status.className = answer.ok ? '' : 'problem';
    status.textContent = answer.ok ? `${file.name} is loaded.` : text;
    if (answer.ok) document.dispatchEvent(new CustomEvent('gandid-turn', { detail: { query: `generator=${text}` } }));
  } catch (lost) {
    status.className = 'problem';
    status.textContent = 'The server does not answer.';
  }
  input.disabled = false;
  input.value = '';
});
