"""A real browser without a window, to look at pages with, and what a person does in one."""

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
ARTEFACTS = Path(__file__).parents[2] / "build" / "artefacts"
PATIENCE = 30  # seconds until something that does not come is an error


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """The browser, with a profile of its own. Without one the test is skipped, unless `FNCB_BROWSER=required`."""
    paths = shutil.which("chromium"), shutil.which("chromedriver")
    if None in paths:
        why = "chromium and chromedriver must be installed: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("FNCB_BROWSER") == "required" else pytest.skip)(why)
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=paths[1]))
    try:
        yield browser
    finally:
        browser.quit()


def look_at(browser: webdriver.Chrome, page: Path, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
    """Opens a page, on a screen of a size, and waits until it is drawn."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 500})
    prefer(browser, dark)
    browser.get(page.as_uri())
    wait(lambda: browser.execute_script("return 'ready' in document.documentElement.dataset || problem.textContent"))
    settle(browser)


def prefer(browser: webdriver.Chrome, dark: bool) -> None:
    """What the person's system prefers."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def settle(browser: webdriver.Chrome) -> None:
    """Waits until the browser has drawn twice: what it was told before is seen then."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def wait(until: Callable[[], Any]) -> Any:
    """Waits for something that is true, and gives it."""
    return WebDriverWait(None, PATIENCE, poll_frequency=0.02).until(lambda _: until(), "it did not come")


def press(browser: webdriver.Chrome, *keys: str) -> None:
    """Presses keys, wherever the focus is."""
    browser.switch_to.active_element.send_keys(*keys)
    settle(browser)


def click(browser: webdriver.Chrome, selector: str) -> None:
    """Clicks on an element."""
    element = find(browser, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()
    settle(browser)


def slide(browser: webdriver.Chrome, to: int) -> None:
    """Moves the slider, as dragging it does."""
    browser.execute_script("slider.value = arguments[0]; slider.dispatchEvent(new Event('input'))", to)
    settle(browser)


def fill(browser: webdriver.Chrome, selector: str, text: str) -> None:
    """Types text into a field, in place of what it holds, and says that it is done."""
    field = find(browser, selector)
    browser.execute_script("arguments[0].select()", field)
    field.send_keys(text, "\n")
    settle(browser)


def find(browser: webdriver.Chrome, selector: str) -> WebElement:
    """The first element that a CSS selector finds."""
    return browser.find_element(By.CSS_SELECTOR, selector)


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    """The text of each element that a CSS selector finds, shown or not."""
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
    )


def text(browser: webdriver.Chrome, selector: str) -> str:
    """The text of the one element that a CSS selector finds."""
    (found,) = texts(browser, selector)
    return found


def complaints(browser: webdriver.Chrome) -> list[str]:
    """What the page wrote to the console."""
    return [entry["message"] for entry in browser.get_log("browser")]


def picture(browser: webdriver.Chrome, name: str) -> Path:
    """A screenshot among the build's artefacts."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    path = ARTEFACTS / f"{name}.png"
    path.write_bytes(base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]))
    return path
