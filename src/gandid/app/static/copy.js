// Buttons that copy the text beside them.
element.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-copy]');
  if (!button) return;
  const text = button.closest('.copy').querySelector('pre');
  const told = element.querySelector('.copied');
  try {
    await navigator.clipboard.writeText(text.textContent);
    told.textContent = 'Copied.';
  } catch (refused) {
    getSelection().selectAllChildren(text);
    told.textContent = 'The browser does not let the page copy: the text is selected, press Ctrl+C.';
  }
});
