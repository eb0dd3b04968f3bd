"""The report in a real browser: slider, pointer and keyboard, both themes, wide and narrow."""

import shutil

import pytest
from playwright.sync_api import sync_playwright
from searched_folders import SETTINGS, write_searched_run

from nnunet_iac.analysis.report.document import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """Return the installed Chromium; without one the test fails, for CI must have it."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path is not None, "no Chromium: run setup_scripts/test.sh, or install it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Return the page of an accelerated, a full and a broken-off search."""
    results = tmp_path_factory.mktemp("results")
    full = SETTINGS.replace(search_epochs=30)
    write_searched_run(results)
    write_searched_run(results, method="IAC", settings=full)
    write_searched_run(results, fold=1, dice=None, epochs=12, frozen="d4")
    return write_report([results], tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture(params=[(1200, "light"), (390, "dark")], ids=["desktop-light", "phone-dark"])
def page(request, browser, address):
    """Return the opened page; any error or warning on its console fails the test."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda sent: said.append(sent.url) if "file:" not in sent.url[:5] else None)
    page.goto(address)
    yield page
    page.close()
    assert [text for text in said if not text.startswith("data:")] == []


def _moment(page):
    return page.locator("#moment").inner_text()


def _slide(page, value):
    page.locator("#epoch").fill(str(value))


def test_slider_shows_the_supernet_being_pruned(page):
    assert _moment(page) == "found cell: eight edges kept"
    assert page.locator(".edge.dropped").count() == 6
    _slide(page, 1)
    assert _moment(page).startswith("warm-up, epoch 1 of ")
    assert "98 of 98 operations left, 0 of 14 edges settled" in _moment(page)
    heights = page.locator(".edge >> nth=0 >> .share").evaluate_all(
        "bars => bars.map(bar => Number(bar.getAttribute('height')))"
    )
    assert max(heights) - min(heights) < 1  # In the warm-up all operations share alike.
    last = int(page.locator("#epoch").get_attribute("max"))
    _slide(page, last - 1)
    assert "14 of 98 operations left, 14 of 14 edges settled" in _moment(page)
    assert page.locator(".edge.dropped").count() == 0


def test_keyboard_moves_the_slider_and_reaches_every_edge(page):
    page.locator("#epoch").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert "epoch 2 of " in _moment(page)
    page.keyboard.press("Tab")  # To the drawing, which scrolls.
    names = []
    for _ in range(14):
        page.keyboard.press("Tab")
        names.append(page.locator("#edge-name").inner_text())
    assert len(set(names)) == 14
    assert names[0] == "edge v0 to v2"
    assert names[-1] == "edge v4 to v5"


def test_pointer_shows_the_course_of_an_edge(page):
    _slide(page, 10)
    edge = page.locator('.edge[data-edge="6"]')
    edge.scroll_into_view_if_needed()
    edge.locator(".chip").hover(force=True)
    assert page.locator("#edge-name").inner_text() == "edge v1 to v4"
    assert page.locator("#course-areas polygon").count() == 7
    shares = page.locator("#edge-shares td").all_inner_texts()
    numbers = [int(text.removesuffix(" %")) for text in shares if text != "pruned"]
    assert 97 <= sum(numbers) <= 103


def test_every_search_can_be_chosen(page):
    page.locator("#which").select_option(index=1)
    assert page.locator("#epoch").get_attribute("max") in ("12", "31")
    page.locator("#which").select_option(index=2)
    assert page.locator("#epoch").get_attribute("max") in ("12", "31")
    page.locator('.edge[data-edge="3"]').focus()
    assert page.locator("#course-areas polygon").count() == 7


def test_search_broken_off_ends_with_its_last_epoch(page):
    names = page.locator("#which option").all_inner_texts()
    page.locator("#which").select_option(label=next(n for n in names if "fold 1" in n))
    assert "epoch 12 of 12" in _moment(page)


def test_nothing_is_wider_than_the_window(page):
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"]


def test_text_and_background_contrast_in_either_theme(page):
    """WCAG 2.2 asks for 4.5 to 1."""
    ratio = page.evaluate(
        """() => {
          const light = (colour) => {
            const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => {
              const c = v / 255;
              return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
          };
          const back = light(getComputedStyle(document.body).backgroundColor);
          return [".verdict", ".note", "figcaption", "h2"].map((selector) => {
            const text = light(getComputedStyle(document.querySelector(selector)).color);
            return (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
          });
        }"""
    )
    assert min(ratio) > 4.5
