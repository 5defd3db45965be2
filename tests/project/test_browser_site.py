"""The website in a real browser without a network: formulas, search, the dark colours, folded results.

Skipped where Chromium (or Chrome) and its driver are not installed.
"""

import functools
import http.server
import threading

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from scripts.notebooks import chosen
from tests.project.test_browser import ARGUMENTS, programs

pytestmark = pytest.mark.browser
LESSON = "notebooks/01_attention_theory.html"
NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
COLOUR = "return getComputedStyle(document.body).backgroundColor"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program, driver = programs()
    if not program or not driver:
        pytest.skip("Chromium and chromedriver are not installed (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (*ARGUMENTS, NOWHERE, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.set_window_size(1280, 720)
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def address(website):
    """The address of the website on a server of this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=website)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def complaints(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def wait(browser, condition):
    return WebDriverWait(browser, 20).until(lambda _: condition())


def use_system(browser, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


@pytest.mark.parametrize("name", ["index", "CLAIMS", "BENCHMARKS", "CONTRIBUTING", "docs/questions", "docs/teaching",
                                  *(f"notebooks/{path.stem}" for path in chosen([]))])
def test_a_page_loads_without_complaint_and_fits_on_every_screen(browser, address, name):
    browser.get(f"{address}{name}.html")
    for width, height in ((1920, 1080), (1280, 720), (390, 844)):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
        assert browser.execute_script(WIDER) <= 0, f"{name} is wider than {width}"
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    pictures = browser.execute_script("for (const image of document.images) image.loading = 'eager';"
                                      "return Promise.all([...document.images].map(image => image.decode()))"
                                      ".then(() => [...document.images].map(image => image.naturalWidth))")
    assert all(pictures)
    assert complaints(browser) == []


def test_formulas_are_drawn(browser, address):
    browser.get(address + LESSON)
    fractions = browser.find_elements(By.CSS_SELECTOR, 'math[display="block"] mfrac')
    assert fractions and all(fraction.rect["height"] > 25 for fraction in fractions)  # a numerator above a denominator


@pytest.mark.parametrize("from_disk", [False, True])
def test_the_search_finds_a_word_and_leads_to_its_page(browser, address, website, from_disk):
    browser.get(website.joinpath("index.html").as_uri() if from_disk else address)
    field = browser.find_element(By.CSS_SELECTOR, ".sidebar-search")
    field.send_keys("softmax")
    field.submit()
    found = wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#search-results ul.search li a"))
    link = next(link for link in found if "01_attention_theory" in link.get_attribute("href"))
    if not from_disk:  # from a disk a browser does not read the excerpts
        wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#search-results .context"))
        assert complaints(browser) == []
    link.click()
    wait(browser, lambda: "Attention theory" in browser.title)
    browser.get_log("browser")


def test_the_switch_changes_the_colours_of_the_page_and_of_its_drawings(browser, address):
    use_system(browser, "light")
    browser.get(address + LESSON)
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    colours = {}
    for _ in range(3):
        theme = browser.execute_script("return document.body.dataset.theme")
        colours[theme] = browser.execute_script(COLOUR)
        browser.execute_script("document.querySelector('.content-icon-container .theme-toggle').click()")
    assert set(colours) == {"auto", "light", "dark"}
    assert colours["auto"] == colours["light"] != colours["dark"]
    use_system(browser, "dark")
    assert browser.execute_script(COLOUR) == colours["dark"]
    use_system(browser, "light")
    assert complaints(browser) == []


def test_a_folded_result_opens_on_a_click(browser, address):
    browser.get(address + LESSON)
    details = browser.find_element(By.CSS_SELECTOR, "details.hide.below-input")
    output = details.find_element(By.CSS_SELECTOR, ".cell_output")
    assert not output.is_displayed()
    browser.execute_script("arguments[0].click()", details.find_element(By.TAG_NAME, "summary"))
    wait(browser, output.is_displayed)  # it fades in
