"""A reader of the page: a headless Chromium, and what one does on the page."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

PATIENCE = 40.0  # seconds; the machine may be shared
# Told apart from what the pictures were before: `canvas.js` counts how often it has painted.
PAINTED = "return Number(document.querySelector('#canvas [data-painted]')?.dataset.painted || 0)"


class Reader:
    """Works on the page as a person does, and waits for what the page answers."""

    def __init__(self, driver: webdriver.Chrome):
        self.driver = driver

    def screen(self, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def open(self, address: str) -> None:
        """Open the page and wait until an edited image is shown."""
        self.driver.get("about:blank")
        self.quiet()
        self.driver.get(address)
        # The last part to be filled, and then all parts have been told: what is typed earlier would be overwritten.
        ready = "return document.querySelectorAll('#keep pre').length && [...document.querySelectorAll('#canvas img')].every(i => i.naturalWidth)"
        self.until(lambda: self.js(PAINTED) and self.js(ready))
        time.sleep(0.3)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.js("return document.querySelector(arguments[0])?.innerText || ''", selector))

    def says(self, selector: str, text: str) -> str:
        """Wait until a part of the page says something; returns all that it says."""
        try:
            return str(self.until(lambda: text in (said := self.text(selector)) and said))
        except TimeoutError as error:
            raise TimeoutError(f"{selector} does not say '{text}' but: {self.text(selector)}") from error

    def until(self, true: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """What `true` returns, once it is true."""
        end = time.monotonic() + patience
        while not (found := true()):
            if time.monotonic() > end:
                raise TimeoutError(
                    f"not within {patience} s; the page says: {self.text('#finding')} {self.text('#status')}"
                )
            time.sleep(0.01)
        return found

    def repainted(self, act: Callable[[], Any]) -> float:
        """Do something and wait until the pictures are painted anew; returns the seconds between."""
        before = self.js(PAINTED)
        start = time.perf_counter()
        act()
        self.until(lambda: self.js(PAINTED) > before)
        return time.perf_counter() - start

    def slide(self, selector: str, value: float) -> None:
        """Put a slider on a value, as a drag does."""
        set_value = (
            "const e = document.querySelector(arguments[0] + ' input[type=range]'); e.value = arguments[1];"
            "e.dispatchEvent(new Event('input', {bubbles: true}));"
        )
        self.js(set_value, selector, str(value))

    def quiet(self) -> None:
        """Forget what the logs hold."""
        for log in ("browser", "performance"):
            self.driver.get_log(log)

    def problems(self) -> list[str]:
        """Errors and warnings of the console since the last look."""
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]

    def asked(self) -> set[str]:
        """Where the page has sent requests: the beginnings of their addresses."""
        logged = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [each["params"]["request"]["url"] for each in logged if each["method"] == "Network.requestWillBeSent"]
        urls += [each["params"]["url"] for each in logged if each["method"] == "Network.webSocketCreated"]
        urls = [url.replace("ws:", "http:", 1) if url.startswith("ws:") else url for url in urls]
        return {"/".join(url.split("/")[:3]) if url.startswith("http") else url.split(":")[0] for url in urls}

    def screenshot(self, file: Path, height: int | None = None) -> None:
        """The page from its top down, the whole of it unless a height is given."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        file.write_bytes(base64.b64decode(taken["data"]))
