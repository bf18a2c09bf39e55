# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser: what a reader clicks, points at and reads."""

import pytest
from browser import open_browser
from report_examples import large_split, small_split, write

# The lowest contrast of any text that is seen, with that text. Backgrounds that are not solid are
# mixed over what lies behind them.
CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
function solid(colours) {
  canvas.clearRect(0, 0, 1, 1);
  for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
  return canvas.getImageData(0, 0, 1, 1).data;
}
function luminance(rgb) {
  const [r, g, b] = [...rgb].slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
let worst = [99, ""];
let count = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim(), own = walker.currentNode.parentElement;
  if (!text || ["SCRIPT", "STYLE", "OPTION", "NOSCRIPT"].includes(own.tagName)) continue;
  if (!own.checkVisibility() || !own.getClientRects().length) continue;
  const grounds = [];
  for (let at = own; at; at = at.parentElement) {
    grounds.unshift(getComputedStyle(at).backgroundColor);
  }
  const style = getComputedStyle(own), ink = own.closest("svg") ? style.fill : style.color;
  const [a, b] = [luminance(solid(grounds)), luminance(solid([...grounds, ink]))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  count += 1;
  if (contrast < worst[0]) worst = [contrast, text.slice(0, 40) + " in " + own.tagName];
}
return [worst[0], worst[1], count];
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A small report and one of 80 classes."""
    root = tmp_path_factory.mktemp("pages")
    write(root / "small.html", *small_split(root / "small"))
    write(root / "large.html", *large_split(root / "large", 60))
    return root


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(opened, pages):
    """Opens one of the pages anew; no test may leave an error on the console."""

    def open_page(name="small", width=1280, height=900, dark=False):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
        opened.get((pages / f"{name}.html").as_uri())
        return opened

    yield open_page
    assert opened.get_log("browser") == []


def one(browser, selector):
    return browser.find_element("css selector", selector)


def texts(browser, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.innerText)"
    return [text.strip().replace("\t", " ") for text in browser.execute_script(script, selector)]


def slide(browser, selector, value):
    """As a reader who drags the slider: its value, and the event that dragging gives."""
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'));"
    browser.execute_script(script, one(browser, selector), value)


def kinds(browser):
    buttons = browser.find_elements("css selector", "#kinds button")
    return {
        button.get_attribute("data-kind"): int(button.text.split()[-1])
        for button in buttons
        if button.text.split()[-1] != "0"
    }


def test_it_opens_on_what_went_wrong(page):
    browser = page()
    assert texts(browser, "h2")[0] == "What went wrong"
    top = one(browser, "#errors h2").location["y"]
    assert top < 300
    assert kinds(browser) == {"class": 1, "duplicate": 1, "missed": 2, "correct": 1}
    assert texts(browser, ".card") == ["a<b>&.jpg: 3 errors", "c.jpg: 1 error"]
    assert texts(browser, "#confused button") == ["</script><cat> & ${co} taken for dog: 1"]


def test_the_slider_counts_again(page):
    browser = page()
    slide(browser, "#score", 0.2)
    assert kinds(browser) == {"class": 1, "duplicate": 1, "missed": 1, "correct": 2}
    slide(browser, "#score", 0.85)
    assert kinds(browser) == {"class": 1, "missed": 3}
    assert one(browser, "#score-value").text == "0.85"
    assert "0 of 3 objects found" in one(browser, "#errors-note").text
    one(browser, "#reset").click()
    assert one(browser, "#score-value").text == "0.30"


def test_filters_by_kind_and_class(page):
    browser = page()
    one(browser, "[data-kind=duplicate]").click()
    assert texts(browser, ".card") == ["c.jpg: 1 error"]
    assert one(browser, "#kind").get_attribute("value") == "4"
    one(browser, "[data-kind=duplicate]").click()  # again: all
    one(browser, "#class option[value='1']").click()
    assert texts(browser, ".card") == ["a<b>&.jpg: 2 errors"]  # the dog seen, and the one missed
    assert kinds(browser) == {"class": 1, "missed": 1}
    one(browser, "#reset").click()
    assert len(texts(browser, ".card")) == 2
    one(browser, "#confused button").click()
    assert texts(browser, ".card") == ["a<b>&.jpg: 1 error"]


def rectangles(browser, place):
    """Number of solid and of dashed frames."""
    script = "return [0, 1].map((d) => document.querySelectorAll(arguments[d]).length)"
    solid, dashed = f"{place} rect:not(.halo, [stroke-dasharray])", f"{place} [stroke-dasharray]"
    return tuple(browser.execute_script(script, solid, dashed))


def test_prediction_and_truth_toggle(page):
    browser = page()
    assert rectangles(browser, ".card") == (3, 3)
    one(browser, "#show [data-show=found]").click()
    assert rectangles(browser, ".card") == (3, 0)
    one(browser, "#show [data-show=truth]").click()
    assert rectangles(browser, ".card") == (0, 3)


def test_a_picture_enlarges_on_a_click(page):
    browser = page()
    small = one(browser, ".card .frame").size["width"]
    one(browser, ".card").click()
    viewer = one(browser, "#viewer")
    assert viewer.is_displayed()
    assert one(browser, "#viewer .frame").size["width"] > 2 * small
    assert one(browser, "#viewer-name").text == "a<b>&.jpg"
    assert one(browser, "#viewer-list tbody").text.split("\n") == [
        "dog class 0.90",
        "</script><cat> & ${co} missed truth",
        "dog missed truth",
    ]
    assert "dog 0.90" in texts(browser, ".tag")
    one(browser, "#viewer-show [data-show=truth]").click()
    assert rectangles(browser, "#viewer") == (0, 2)
    slide(browser, "#viewer-score", 0.2)
    assert "</script><cat> & ${co} found truth" in one(browser, "#viewer-list tbody").text
    one(browser, "#next").click()
    assert one(browser, "#viewer-name").text == "c.jpg"
    one(browser, "#viewer").send_keys("\ue012")  # arrow to the left
    assert one(browser, "#viewer-name").text == "a<b>&.jpg"
    one(browser, "#viewer").send_keys("\ue00c")  # escape
    assert not viewer.is_displayed()


def test_names_do_not_lie_on_each_other(page):
    browser = page("large")
    one(browser, ".card").click()
    tags = [found.rect for found in browser.find_elements("css selector", ".tag")]
    assert len(tags) >= 3
    for number, a in enumerate(tags):
        for b in tags[:number]:
            apart_x = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
            apart_y = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
            assert apart_x <= 1 or apart_y <= 1


def point_at(browser, x, y):
    event = {"type": "mouseMoved", "x": x, "y": y}
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)


def test_the_curve_under_the_pointer_is_told(page):
    """At IoU 0.50 both cats are found, the first at once: precision 1 up to a recall of a half."""
    browser = page()
    browser.execute_script("document.querySelector('#curves').scrollIntoView()")
    plot = browser.execute_script(
        "const drawn = document.querySelector('#plot svg'), box = drawn.getBoundingClientRect();"
        "return [box.x, box.y, box.width / drawn.viewBox.baseVal.width];"
    )
    scale = plot[2]
    point_at(browser, plot[0] + (46 + 0.25 * 640) * scale, plot[1] + 12 * scale)
    assert one(browser, "#under-pointer").text == (
        "</script><cat> & ${co}: precision 1.000 at recall 0.25"
    )
    one(browser, "#which button:last-child").click()
    assert "Point at a curve" in one(browser, "#under-pointer").text
    point_at(browser, plot[0] + (46 + 0.7 * 640) * scale, plot[1] + (10 + 360 / 3) * scale)
    # one of two found at 0.7, no error: 2 * 1 / (1 + 2)
    assert one(browser, "#under-pointer").text == ("</script><cat> & ${co}: F1 0.667 at score 0.70")


def test_a_threshold_is_suggested_for_each_class(page):
    browser = page()
    rows = texts(browser, "#class-table tbody tr")
    assert rows[0].endswith("0.20 0.800")
    assert rows[1].endswith("- -")
    assert not one(browser, "#suggested").is_displayed()
    one(browser, "#class option[value='0']").click()
    one(browser, "#suggested").click()
    assert one(browser, "#score-value").text == "0.20"


def test_tables_sort_and_their_heads_stay(page):
    browser = page("large")
    table = "#class-table"

    def column(number):
        return texts(browser, f"{table} tbody td:nth-child({number})")

    for number in (2, 4):  # objects, AP
        one(browser, f"{table} th:nth-child({number}) button").click()
        values = [float(text) for text in column(number) if text != "-"]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) > 3
        one(browser, f"{table} th:nth-child({number}) button").click()
        assert [float(text) for text in column(number) if text != "-"] == values[::-1]
        head = one(browser, f"{table} th:nth-child({number})")
        assert head.get_attribute("aria-sort") == "ascending"
    box = one(browser, table)
    browser.execute_script("arguments[0].scrollTop = 500", box)
    assert browser.execute_script("return arguments[0].scrollTop", box) == 500
    gap = (
        "return arguments[0].getBoundingClientRect().top - arguments[1].getBoundingClientRect().top"
    )
    assert abs(browser.execute_script(gap, one(browser, f"{table} th"), box)) <= 1


@pytest.mark.parametrize("part", ["#class-bars", "#confusion"])
def test_80_classes_are_within_one_screen(page, part):
    browser = page("large")
    filters = one(browser, "#filters").size["height"]  # which stay at the top
    size = one(browser, part).size
    assert size["height"] + filters <= 900
    assert size["width"] <= 1280
    script = "return document.querySelectorAll(`${arguments[0]} .scroll`).length"
    inner = browser.execute_script(script, part) and one(browser, f"{part} .scroll")
    if inner:  # all of it is seen without scrolling
        for way in ("Width", "Height"):
            grown = f"return arguments[0].scroll{way} - arguments[0].client{way}"
            assert browser.execute_script(grown, inner) == 0


def test_a_cell_of_the_matrix_is_told(page):
    browser = page()
    # rows and columns: background, cat, dog; the cat taken for a dog
    one(browser, "#matrix [data-at='1,2']").click()
    assert one(browser, "#confusion-cell").text == ("</script><cat> & ${co}, found as dog: 1 of 2")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["small", "large"])
def test_every_text_has_a_contrast_of_at_least_4_5(page, name, dark):
    browser = page(name, dark=dark)
    one(browser, "#class option[value='0']").click()  # with something chosen everywhere
    worst, text, count = browser.execute_script(CONTRAST)
    assert count > 60
    assert worst >= 4.5, text
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert (browser.execute_script(ground) == "rgb(255, 255, 255)") is not dark
    one(browser, ".card").click()
    worst, text, _ = browser.execute_script(CONTRAST)
    assert worst >= 4.5, text


@pytest.mark.parametrize("name", ["small", "large"])
def test_a_phone_scrolls_one_way_only(page, name):
    browser = page(name, width=390, height=844)
    wide = "return document.documentElement.scrollWidth"
    assert browser.execute_script(wide) <= 390
    one(browser, ".card").click()
    assert one(browser, "#viewer .frame").size["width"] > 300
    assert browser.execute_script(wide) <= 390


@pytest.mark.parametrize("width", [390, 1280])
def test_the_choice_of_all_is_not_cut_off_by_the_arrow_of_its_list(page, width):
    """Its text drawn as a list draws it has room, with an arrow as wide as the letters are high."""
    measure = """
    return ["class", "kind"].map((id) => {
      const list = document.getElementById(id), style = getComputedStyle(list);
      const pen = document.createElement("canvas").getContext("2d");
      pen.font = style.font;
      const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
      const arrow = parseFloat(style.fontSize);
      return list.clientWidth - padding - arrow - pen.measureText(list.options[0].text).width;
    });"""
    browser = page(width=width, height=844)
    assert min(browser.execute_script(measure)) >= 0
