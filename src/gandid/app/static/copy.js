// Buttons that copy the text beside them.
element.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-copy]');
  if (!button) return;
  const text = button.closest('.copy').querySelector('pre');
  const status = element.querySelector('.copied');
  try {
    await navigator.clipboard.writeText(text.textContent);
    status.textContent = 'Copied.';
  } catch (refused) {
    getSelection().selectAllChildren(text);
    status.textContent = 'The browser does not let the page copy: the text is selected, press Ctrl+C.';
  }
});
