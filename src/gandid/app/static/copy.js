// Buttons that copy the text beside them; the address of what is shown; and the pictures as one file.
document.addEventListener('gandid-shown', () => setTimeout(() => { element.querySelector('[data-address]')?.replaceChildren(location.href); }));
const save = async () => {
  const shown = [...document.querySelectorAll('#canvas .stage figure')].filter((figure) => figure.querySelector('img[src]'));
  const side = 320, head = 36;
  const sheet = document.createElement('canvas');
  sheet.width = side * shown.length;
  sheet.height = side + head;
  const pen = sheet.getContext('2d');
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, sheet.width, sheet.height);
  pen.font = '16px sans-serif';
  pen.fillStyle = '#1c1e22';
  shown.forEach((figure, i) => {
    const image = figure.querySelector('img');
    pen.imageSmoothingEnabled = image.classList.contains('smooth');
    pen.fillText(figure.querySelector('.title').textContent, side * i + 6, 24, side - 12);
    pen.drawImage(image, side * i + 2, head, side - 4, side - 4);
  });
  const link = document.createElement('a');
  link.download = 'gandid.png';
  link.href = sheet.toDataURL('image/png');
  link.click();
};
element.addEventListener('click', async (event) => {
  if (event.target.closest('[data-save]')) save();
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
