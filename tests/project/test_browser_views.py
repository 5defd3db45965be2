"""In a real browser: the views respond, do not jump, fit every screen, and need no network.

Skipped where Chromium (or Chrome) and its driver are not installed.
"""

import itertools

import pytest
import torch
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from helpers.corpus import load_tokenizer
from helpers.course import views_pages
from helpers.course.text_statistics import entropy
from helpers.generation import next_token_probabilities
from helpers.machine import assets
from tests.project.test_browser import WITHOUT_NETWORK, browser

__all__ = ["browser"]
pytestmark = pytest.mark.browser
DOCS = assets.ROOT / "docs"
STEPS, HEADS, NEXT = (DOCS / "views" / f"{name}.html" for name in ("attention_steps", "heads", "next_token"))
SCREENS = [(1440, 900), (1280, 720), (1000, 640), (700, 900), (390, 800)]
PLACES = """return [...document.querySelectorAll(arguments[0])].map(element => {
  const {x, y, width, height} = element.getBoundingClientRect();
  return [x, y, width, height].map(Math.round).join(" ");
})"""
SLIDE = """const slider = document.getElementById(arguments[0]);
slider.value = arguments[1];
slider.dispatchEvent(new Event("input"));"""


@pytest.fixture
def page(browser):
    """Opens a page on a screen of a size, light or dark, without a network."""

    def opened(path, width=1160, height=720, dark=False):
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd("Network.setBlockedURLs", WITHOUT_NETWORK)
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        colours = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": colours})
        browser.get(path.as_uri())
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        return browser

    yield opened
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def slide(browser, name, value):
    """What a slider does while it moves."""
    browser.execute_script(SLIDE, name, value)


def seen(browser, selector):
    """The texts of the elements that can be seen."""
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]


@pytest.mark.parametrize("path", [STEPS, HEADS, NEXT], ids=lambda path: path.stem)
@pytest.mark.parametrize("width, height", [(1280, 720), (390, 800)])
def test_a_page_reads_no_other_file_and_is_no_wider_than_the_screen(page, path, width, height):
    chrome = page(path, width, height)
    assert chrome.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    if width > 1000:
        assert chrome.execute_script("return document.querySelector('main').offsetHeight") <= height


@pytest.mark.parametrize("path", [STEPS, HEADS, NEXT], ids=lambda path: path.stem)
def test_a_page_is_dark_on_a_dark_screen(page, path):
    light, dark = (page(path, dark=dark).execute_script("return getComputedStyle(document.body).backgroundColor")
                   for dark in (False, True))
    assert sum(map(int, light[4:-1].split(", "))) > 600 > 200 > sum(map(int, dark[4:-1].split(", ")))


def test_the_steps_respond_and_do_not_jump(page):
    chrome, places = page(STEPS), set()
    for token, step in itertools.product(range(6), range(1, 5)):
        slide(chrome, "token", token)
        slide(chrome, "step", step)
        places.add(tuple(chrome.execute_script(PLACES, "main, #panels > svg, #tokens button, #said, #play")))
        assert len(chrome.find_elements(By.CSS_SELECTOR, ".content:not(.later)")) == step
        assert {e.get_attribute("class") for e in chrome.find_elements(By.CSS_SELECTOR, ".frame.now")} == {
            f"frame t{token} now"}
        assert seen(chrome, ".content:not(.later) .frame text.q.b")[:1] == [seen(chrome, "#tokens button")[token]]
    assert len(places) == 1


def test_the_steps_follow_clicks_and_keys_and_play(page):
    chrome = page(STEPS)
    chrome.find_elements(By.CSS_SELECTOR, "#tokens button")[0].click()
    assert "only itself" in chrome.find_element(By.ID, "said").text
    chrome.find_element(By.ID, "token").send_keys(Keys.ARROW_RIGHT)
    assert "“ship” gives" in chrome.find_element(By.ID, "said").text
    chrome.find_element(By.ID, "play").click()
    assert chrome.find_element(By.ID, "steps").text == "1 of 4"
    chrome.execute_script("forward(); forward(); forward(); forward();")
    assert chrome.find_element(By.CSS_SELECTOR, "#tokens [aria-pressed=true]").text == "was"
    chrome.find_element(By.ID, "play").click()
    assert "play" in chrome.find_element(By.ID, "play").text


def test_the_heads_respond_to_clicks_keys_and_the_mouse_and_do_not_jump(page):
    chrome, places = page(HEADS), set()
    buttons = chrome.find_elements(By.CSS_SELECTOR, "#grid button")
    assert len(buttons) == 48
    for button in buttons[::13]:
        button.click()
        places.add(tuple(chrome.execute_script(PLACES, "main, #large, #grid button, #words button, #said")))
    assert chrome.find_element(By.ID, "title").text == "Layer 4, head 7"
    buttons[0].send_keys(Keys.ARROW_DOWN, Keys.ARROW_LEFT)
    assert chrome.find_element(By.ID, "title").text == "Layer 5, head 6"
    cells = chrome.find_elements(By.CSS_SELECTOR, "#large rect")[1:]  # after that of the pattern
    for row in (1, 4):
        ActionChains(chrome).move_to_element(cells[6 * row]).perform()
        assert chrome.find_element(By.CSS_SELECTOR, "#words [aria-pressed=true]").text.split()[0] == (
            chrome.find_element(By.CSS_SELECTOR, "#large text.q").text)
        weights = [float(word) for word in seen(chrome, "#words small") if word != "−"]
        assert len(weights) == row + 1 and sum(weights) == pytest.approx(1, abs=0.05)
        places.add(tuple(chrome.execute_script(PLACES, "main, #large, #grid button, #words button, #said")))
    assert len(places) == 1


@pytest.mark.parametrize("chosen", [{}, {"temperature": 0.5, "top_k": 7}, {"temperature": 10.0, "top_p": 0.6},
                                    {"temperature": 2.0, "top_k": 40, "top_p": 0.8}])
def test_the_next_token_has_the_probabilities_of_the_course(page, tmp_path, chosen):
    tokenizer = load_tokenizer("course")
    logits = 2.5 * torch.randn(tokenizer.vocab_size, generator=torch.Generator().manual_seed(3))
    path = tmp_path / "next.html"
    path.write_text(views_pages.next_token(logits, tokenizer, "The sea", {"this": chosen}), encoding="utf-8")
    chrome = page(path)
    expected = next_token_probabilities(logits, **chosen)
    nats = float(chrome.find_elements(By.CSS_SELECTOR, "text.m")[1].text.split()[0])
    assert nats == pytest.approx(entropy(expected).item(), abs=0.02)
    shares = [100 * share for share in expected.sort(descending=True).values[:10].tolist()]
    bars = chrome.find_elements(By.CSS_SELECTOR, "section")[1].find_elements(By.CSS_SELECTOR, ".bar")
    widths = [float(bar.get_attribute("width")) / 1.3 for bar in bars]
    assert widths == pytest.approx([*shares, 100 - sum(shares)], abs=0.1)


def test_the_next_token_responds_while_a_slider_moves_and_does_not_jump(page):
    chrome, places, states = page(NEXT), set(), set()
    for name, value in (("temperature", -0.5), ("temperature", 0.9), ("k", 3), ("p", 0.4), ("k", 51)):
        slide(chrome, name, value)
        places.add(tuple(chrome.execute_script(PLACES, "main, section, section text.token, .row label, button")))
        states.add(chrome.find_element(By.CSS_SELECTOR, "section.own").get_attribute("innerHTML"))
    assert len(places) == 1 and len(states) == 5
    chrome.find_element(By.ID, "reset").click()
    own, like = (chrome.find_elements(By.CSS_SELECTOR, "section")[i].text.splitlines()[1:] for i in (0, 2))
    assert own == like, "without a setting it is the distribution at temperature 1"


@pytest.mark.parametrize("path, kind", [(STEPS, "steps"), (HEADS, "heads"), (NEXT, "next-token")])
def test_a_notebooks_frame_is_as_high_as_its_page(page, tmp_path, path, kind):
    output = tmp_path / "output.html"
    text = views_pages.embedded(path.read_text(encoding="utf-8"), kind, b"", "a view")
    output.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin: 0">{text}</body>', encoding="utf-8")
    for width, height in SCREENS:
        chrome = page(output, width, height)
        frame = chrome.find_element(By.CSS_SELECTOR, ".course-view iframe")
        assert not chrome.find_element(By.CSS_SELECTOR, ".course-view img").is_displayed()
        room = chrome.execute_script("return arguments[0].clientHeight", frame)
        needed, wide = chrome.execute_script("const page = arguments[0].contentDocument; return "
                                             "[page.querySelector('main').offsetHeight, page.body.scrollWidth]", frame)
        assert needed <= room <= needed + 130 and wide <= width, (width, needed, room)
        assert width < 1000 or room <= 720


def test_the_animation_moves_and_fits_without_a_script(page):
    chrome = page(DOCS / "images" / "attention_steps.svg", 1240, 700)
    opacities = ("return [...document.querySelectorAll('g.frame')].filter(g => getComputedStyle(g).opacity > 0.5)"
                 ".map(g => g.getAttribute('class'))")
    chrome.execute_script("document.getAnimations().forEach(a => { a.pause(); a.currentTime = 1; })")
    states = set()
    for token in range(6):
        moment = "document.getAnimations().forEach(a => { a.currentTime = arguments[0]; })"
        chrome.execute_script(moment, 4000 * token + 3500)
        shown = set(chrome.execute_script(opacities))
        assert shown == {f"frame t{token}"}
        states |= shown
    assert len(states) == 6
