"""In a real browser: pages fit and need no network; in JupyterLab notebooks run, fold and respond.

Skipped where Chromium (or Chrome) and its driver are not installed.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from selenium import webdriver
from selenium.common import exceptions
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from scripts import rendering
from scripts.fold_notebooks import fold
from scripts.notebooks import FOLDER, ROOT, chosen

pytestmark = pytest.mark.browser
PATHS = chosen([])
IN_LAB = [path for path in PATHS if path.stem[:2] in ("01", "04")]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)
WITHOUT_NETWORK = {"urls": ["http://*", "https://*"]}
CELLS = "window.jupyterapp.shell.currentWidget.content.widgets"
FOLDED = f"return {CELLS}.filter(cell => cell.node.querySelector(arguments[0])).map(cell => cell.model.id)"

# The numbers beside the cells: [ ] not run, [*] waiting or running, [7] done.
PROMPTS = """return [...document.querySelectorAll(".jp-Notebook .jp-InputArea-prompt")]
    .map(prompt => prompt.textContent.trim()).filter(text => text)"""
IS_READY = """
const context = window.jupyterapp?.shell.currentWidget?.context;
return Boolean(context?.isReady) && context.sessionContext.session?.kernel?.status === "idle";
"""
ALL_HAVE_RUN = f"""
const prompts = (() => {{ {PROMPTS} }})();
return !prompts.some(text => text.includes("*")) && /\\d/.test(prompts.at(-1));
"""
NONE_HAS_RUN = f"return (() => {{ {PROMPTS} }})().every(text => text === '[ ]:')"


def programs():
    """The paths of a browser and of the driver that belongs to it, or None in the place of what is missing."""
    folder = os.environ.get("CHROMEWEBDRIVER")  # GitHub's machines have Chrome and, in this folder, its driver
    names = [name for name in BROWSERS if "google" in name] if folder else BROWSERS
    return next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver", path=folder or None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program, driver = programs()
    if not program or not driver:
        pytest.skip("Chromium and chromedriver are not installed (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (*ARGUMENTS, "--window-size=1366,768", f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


# --- pages -----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder with the pages of two notebooks that follow each other."""
    folder = tmp_path_factory.mktemp("pages")
    for path in PATHS[:2]:
        page = rendering.page(nbformat.read(path, as_version=4), FOLDER, folder)
        (folder / f"{path.stem}.html").write_text(page, encoding="utf-8")
    return folder


def test_a_page_shows_formulas_and_leads_to_the_next_one_without_a_network(browser, pages):
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", WITHOUT_NETWORK)
    first, second = (pages / f"{path.stem}.html" for path in PATHS[:2])
    browser.get(first.as_uri())
    browser.find_element(By.CSS_SELECTOR, f'a[href="{second.name}"]').click()
    WebDriverWait(browser, 20).until(lambda _: browser.current_url == second.as_uri())
    fractions = browser.find_elements(By.CSS_SELECTOR, 'math[display="block"] mfrac')
    assert fractions and all(fraction.rect["height"] > 25 for fraction in fractions)  # a numerator above a denominator
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("width, height", [(1366, 768), (1920, 1080)])
def test_a_page_is_no_wider_than_the_screen(browser, pages, width, height):
    browser.get((pages / f"{PATHS[1].stem}.html").as_uri())
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("label, content", [("Show the code", ".jp-InputArea"), ("Show the result", ".jp-OutputArea")])
def test_what_is_folded_on_a_page_opens_with_one_click(browser, pages, label, content):
    browser.get((pages / f"{PATHS[1].stem}.html").as_uri())
    details = browser.find_element(By.XPATH, f"//details[summary='{label}']")
    hidden = details.find_element(By.CSS_SELECTOR, content)
    assert not hidden.is_displayed()
    details.find_element(By.TAG_NAME, "summary").click()
    assert hidden.is_displayed()


# --- JupyterLab ------------------------------------------------------------------------------------------------------

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def lab():
    """JupyterLab in the course's folder, with copies of notebooks in build/: a path's address, and their folder."""
    (ROOT / "build").mkdir(exist_ok=True)
    folder, port, token = Path(tempfile.mkdtemp(dir=ROOT / "build")), free_port(), secrets.token_hex(16)
    for path in IN_LAB:
        notebook = nbformat.read(path, as_version=4)
        fold(notebook)
        nbformat.write(notebook, folder / path.name)
    for name, setting in (("notebook-extension/tracker", {"windowingMode": "none"}),  # all cells are in the page
                          ("docmanager-extension/plugin", {"autosave": False})):
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(setting))
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = {**os.environ, **own, "COURSE_SIZE": "smoke", "IPYTHONDIR": str(folder / "ipython"),
                   "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
                   "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
                   "JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={ROOT}",
               f"--FileCheckpoints.checkpoint_dir={folder / 'checkpoints'}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    address = f"http://127.0.0.1:{port}"
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for_server(f"{address}/api/status?token={token}", server, folder / "lab.log")
            yield lambda path: f"{address}/lab/tree/{path}?token={token}&reset", folder.relative_to(ROOT)
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:  # it waits for a busy kernel
                server.kill()
    shutil.rmtree(folder, ignore_errors=True)


def wait_for_server(address, server, log, seconds=180):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # 127.0.0.1 needs no proxy
    for _ in range(seconds * 5):
        time.sleep(0.2)
        try:
            return opener.open(address, timeout=5)
        except OSError:
            assert server.poll() is None, log.read_text()
    raise AssertionError(f"JupyterLab did not answer: {log.read_text()}")


def open_notebook(browser, address):
    """Opens a notebook and waits for its kernel."""
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    browser.get(address)
    wait = WebDriverWait(browser, 120, 0.5, [exceptions.JavascriptException])  # until JupyterLab is loaded
    wait.until(lambda _: browser.execute_script(IS_READY), "the notebook did not open")


def command(browser, name):
    browser.execute_script(f"window.jupyterapp.commands.execute('{name}')")  # answers before the end


def run_all(browser, seconds=600):
    """Runs the commands Clear All Outputs and Run All Cells, and waits for the end or an error."""
    command(browser, "notebook:clear-all-cell-outputs")
    WebDriverWait(browser, 20).until(lambda _: browser.execute_script(NONE_HAS_RUN))
    command(browser, "notebook:run-all-cells")
    try:
        WebDriverWait(browser, seconds, 0.5).until(lambda _: errors(browser) or browser.execute_script(ALL_HAVE_RUN))
    except exceptions.TimeoutException as slow:
        raise AssertionError(f"the cells did not end: {browser.execute_script(PROMPTS)}") from slow


def errors(browser):
    shown = browser.find_elements(By.CSS_SELECTOR, '[data-mime-type="application/vnd.jupyter.error"]')
    return [error.text for error in shown]


def figures(browser, inside=".jp-Notebook"):
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter(i => i.naturalWidth * i.clientHeight > 0)"
        ".map(i => i.src)", f"{inside} .jp-OutputArea-output img")


def respond(browser):
    """Moves a slider of every view, or clicks on another head: the view must change. Returns the number of views."""
    views = browser.find_elements(By.CSS_SELECTOR, ".course-view iframe")
    state = "return document.querySelector('main').innerText + document.querySelector('main').innerHTML"
    for view in views:
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", view)
        browser.switch_to.frame(view)
        before = browser.execute_script(state)
        sliders = browser.find_elements(By.CSS_SELECTOR, "input[type=range]")
        if sliders:
            sliders[0].send_keys(Keys.ARROW_LEFT)
        else:
            browser.find_element(By.CSS_SELECTOR, "#grid button").click()
        changed = browser.execute_script(state) != before
        browser.switch_to.default_content()
        assert changed, "a view did not respond"
    return len(views)


def type_texts(browser):
    """Enters a text of its own into every field for one, and waits for the view of it. Returns the number of fields."""
    fields = browser.find_elements(By.CSS_SELECTOR, ".course-view-text")
    for field in fields:
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.find_element(By.CSS_SELECTOR, "input").send_keys("The sea was", Keys.ENTER)
        WebDriverWait(browser, 60).until(lambda _: field.find_elements(By.CSS_SELECTOR, ".course-view iframe"),
                                         "a text was entered, and nothing was shown")
        assert not errors(browser)
    return len(fields)


def open_output(browser, name):
    """Clicks on a folded output, and waits until it is shown."""
    node = browser.execute_script(f"return {CELLS}.find(cell => cell.model.id === arguments[0]).node", name)
    assert not node.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
    node.find_element(By.CSS_SELECTOR, ".jp-OutputPlaceholder").click()
    WebDriverWait(browser, 20).until(lambda _: node.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output"))


@pytest.mark.parametrize("path", IN_LAB, ids=[path.stem for path in IN_LAB])
def test_a_notebook_runs_and_folds_in_jupyterlab_and_its_controls_respond(browser, lab, path):
    address, folder = lab
    notebook = nbformat.read(path, as_version=4)
    fold(notebook)
    marked = {mark: [cell.id for cell in notebook.cells if cell.metadata.get("jupyter", {}).get(mark)]
              for mark in ("source_hidden", "outputs_hidden")}
    drawn = [output for cell in notebook.cells for output in cell.get("outputs", [])
             if "image/png" in output.get("data", {})]
    open_notebook(browser, address((folder / path.name).as_posix()))
    assert browser.execute_script(FOLDED, ".jp-InputPlaceholder") == marked["source_hidden"]
    assert browser.execute_script(FOLDED, ".jp-OutputPlaceholder") == marked["outputs_hidden"]
    open_output(browser, marked["outputs_hidden"][0])
    assert browser.execute_script(FOLDED, ".jp-OutputPlaceholder") == marked["outputs_hidden"][1:]
    run_all(browser)  # JupyterLab opens the output of a cell that it runs
    assert not errors(browser)
    assert len(figures(browser)) >= len(drawn)
    assert re.search(r"You will often read that", browser.find_element(By.CSS_SELECTOR, ".jp-Notebook").text)
    assert type_texts(browser) == (2 if path.stem.startswith("04") else 0)
    assert respond(browser) >= 1, "no view with a control"


def test_a_link_to_the_readme_opens_in_jupyterlab(browser, lab):
    address, _ = lab
    open_notebook(browser, address(f"notebooks/{PATHS[0].name}"))
    browser.find_element(By.CSS_SELECTOR, '.jp-MarkdownOutput a[href*="README.md"]').click()
    opened = "return window.jupyterapp.shell.currentWidget.context.path"
    WebDriverWait(browser, 60).until(lambda _: browser.execute_script(opened) == "README.md")
