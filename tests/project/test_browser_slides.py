"""In a real browser: every slide has its heading at the same place, fills its room, fits, and needs no network.

Skipped where Chromium (or Chrome) and its driver are not installed. One deck: -k 03.
"""

import html
import re

import nbformat
import pytest

from scripts import slides
from scripts.notebooks import chosen
from tests.project.test_browser import WITHOUT_NETWORK, browser

__all__ = ["browser"]
pytestmark = pytest.mark.browser
PATHS = chosen([])
SMALLEST = 15  # letters on a slide, of its 720 units in height
LEAST_FILLED = 0.4  # of the height of a slide's body
SENTENCE_END = re.compile(r"[.?!…:)”\"]$")

# Goes through all slides of a deck. filled: the part of the body's height where something stands, by blocks; a picture
# counts as high as it is seen. What appears with a click keeps its place, so that no click is needed.
MEASURE_SLIDES = """
const found = [];
function extent(block) {
  let {top, bottom, width} = block.getBoundingClientRect();
  const picture = block.matches(".figure") && block.querySelector("img, svg");
  if (picture) {
    const box = picture.viewBox?.baseVal, ratio = box ? box.width / box.height
      : picture.naturalWidth / picture.naturalHeight;
    const height = Math.min(bottom - top, width / ratio), middle = (top + bottom) / 2;
    [top, bottom] = [middle - height / 2, middle + height / 2];
  }
  return [top, bottom];
}
function covered(extents) {
  let sum = 0, end = -Infinity;
  for (const [top, bottom] of extents.sort((a, b) => a[0] - b[0])) {
    sum += Math.max(0, bottom - Math.max(top, end));
    end = Math.max(end, bottom);
  }
  return sum;
}
for (const slide of Reveal.getSlides()) {
  const {h, v} = Reveal.getIndices(slide);
  Reveal.slide(h, v);
  const body = slide.querySelector(".body"), head = slide.querySelector(".head"), room = body.getBoundingClientRect();
  const blocks = [...slide.querySelectorAll(".body:not(.beside) > *, .beside > div > *")];
  const letters = [...body.querySelectorAll("p, li, td, pre")].map(e => parseFloat(getComputedStyle(e).fontSize));
  const page = slide.querySelector(".page").getBoundingClientRect(), place = head.getBoundingClientRect();
  const text = head.querySelector(".asked").getBoundingClientRect();
  const outside = blocks.map(e => e.getBoundingClientRect())
    .map(e => Math.max(room.top - e.top, e.bottom - room.bottom, page.left - e.left, e.right - page.right));
  found.push({
    name: slide.id, sparse: slide.hasAttribute("data-sparse"), height: page.height,
    over: Math.round(Math.max(...[body, head].map(e => e.scrollHeight - e.clientHeight), ...outside)),
    letters: Math.min(...letters, 99), filled: covered(blocks.map(extent)) / room.height,
    heading: head.querySelector(".asked").textContent.trim(),
    place: [place.left, place.top, place.height].map(Math.round),
    middle: Math.round((text.left + text.right - page.left - page.right) / 2),
    captions: [...slide.querySelectorAll(".seen")].map(e => e.textContent.trim()),
    figures: blocks.filter(e => e.matches(".figure")).map(e => Math.round(extent(e)[1] - extent(e)[0])),
  });
}
return found;
"""


def measured(browser, page):
    """What MEASURE_SLIDES finds in a deck at 1280 x 720, and the addresses that it asked for."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": False})
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", WITHOUT_NETWORK)
    browser.get(page.as_uri())
    found = browser.execute_script(MEASURE_SLIDES)
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return found, [name[:80] for name in asked if not name.startswith("data:")]


def offenders(found):
    """What is wrong with the slides of a deck: one line each, with the id of the cell where the slide begins."""
    lines = []
    for slide in found:
        wrong = {
            f"sticks out by {slide['over']}": slide["over"] > 1 or slide["height"] > 720,
            f"has letters of {slide['letters']:.0f}": slide["letters"] < SMALLEST,
            f"is {slide['filled']:.0%} full": slide["filled"] < LEAST_FILLED and not slide["sparse"],
            "has no heading": not re.sub(r"\(\d+\)$", "", slide["heading"]).strip(),
            f"has its heading at {slide['place']}, {slide['middle']} from the middle":
                slide["place"] != found[0]["place"] or abs(slide["middle"]) > 1,
            f"has a caption that is cut: {slide['captions']}":
                not all(SENTENCE_END.search(caption) for caption in slide["captions"]),
            f"has figures of the heights {slide['figures']}": any(height < 160 for height in slide["figures"]),
        }
        lines += [f"{slide['name']} {what}" for what, is_so in wrong.items() if is_so]
    return lines


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_each_slide_has_its_heading_fills_its_room_and_fits_without_a_network(browser, path, tmp_path):
    page = tmp_path / "slides.html"
    page.write_text(slides.page(nbformat.read(path, as_version=4)), encoding="utf-8")
    found, asked = measured(browser, page)
    assert asked == []
    assert len(found) >= 10
    wrong = offenders(found)
    assert not wrong, f"{path.name}, {len(found)} slides:\n  " + "\n  ".join(wrong)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def deck_page(tmp_path, *blocks):
    """A page of two slides: a title and one with these blocks."""
    page = tmp_path / "slides.html"
    section = "".join(slides.section_html(slides.Slide(name, "", name, blocks=list(content)), "title", 2)
                      for name, content in (("full", [slides.Block('<div class="text"><p>' + "word " * 100, 0)]),
                                            ("tried", blocks)))
    empty = slides.page(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 01 · A title")]))
    start, end = empty.index('<div class="slides">') + len('<div class="slides">'), empty.rindex("</div></div>")
    page.write_text(f"{empty[:start]}<section>{section}</section>{empty[end:]}", encoding="utf-8")
    return page


@pytest.mark.parametrize("blocks, problem", [
    ([f'<div class="text"><p>{html.escape("A very long text. " * 400)}</p></div>'], "sticks out"),
    (['<div class="text"><p>short</p></div>'], "% full"),
    ([f'<div class="text"><p>{"word " * 150}</p></div>', '<div class="seen"><p>It is cut in the</p></div>'], "is cut"),
])
def test_what_is_wrong_with_a_slide_is_noticed(browser, tmp_path, blocks, problem):
    found, _ = measured(browser, deck_page(tmp_path, *(slides.Block(text, 0) for text in blocks)))
    assert any(line.startswith("tried") and problem in line for line in offenders(found)), offenders(found)


def test_a_small_table_grows_and_a_result_waits_for_a_click(browser, tmp_path):
    table = "<table><tbody><tr><td>1</td></tr><tr><td>2</td></tr></tbody></table>"
    blocks = [slides.Block('<div class="predict"><p>How many?</p></div>', 0),
              slides.Block(f'<div class="html">{table}</div>', 0, "table", fragment=True, answers=True)]
    page = deck_page(tmp_path, *blocks)
    measured(browser, page)
    sizes = browser.execute_script("return [...document.querySelectorAll('#tried td')].map(e => "
                                   "[parseFloat(getComputedStyle(e).fontSize), getComputedStyle(e).visibility])")
    assert all(size > 40 and visibility == "hidden" for size, visibility in sizes)
    browser.execute_script("Reveal.nextFragment()")
    visible = "return getComputedStyle(document.querySelector('#tried td')).visibility"
    assert browser.execute_script(visible) == "visible"
