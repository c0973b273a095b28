"""A browser opens the pages: nothing is asked of the network, all is readable, data stays text."""

import pytest
from report_samples import requests_of
from selenium.webdriver.common.by import By

PAGES = ["selection", "comparison"]

CONTRASTS = """
const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const background = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
document.querySelectorAll("details").forEach((node) => { node.open = true; });
const found = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!own || ["SCRIPT", "STYLE", "title", "desc"].includes(node.tagName)) continue;
  const style = getComputedStyle(node);
  if (node.ownerSVGElement && node.textContent === "\\u25a0") continue;  // a mark of colour
  const colours = [parse(node.ownerSVGElement ? style.fill : style.color), background(node)];
  const [dark, light] = colours.map(luminance).sort((a, b) => a - b);
  found.push([(light + 0.05) / (dark + 0.05), node.tagName + " " + node.textContent.slice(0, 40)]);
}
return found;
"""


@pytest.mark.parametrize("name", PAGES)
def test_the_page_opens_without_complaint_and_asks_for_nothing_but_itself(visit, pages, name):
    driver = visit(name, 320)
    assert driver.get_log("browser") == []
    assert requests_of(driver, pages[name].as_uri()) == [pages[name].as_uri()]
    assert driver.title.endswith(("examples", "data sets"))  # no script of the data has run


def test_the_policy_stops_what_would_reach_the_network(visit):
    driver = visit("selection")
    driver.execute_script(
        "const image = new Image(); image.src = 'http://localhost:9/x.png'; document.body.append(image);"
        "const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
        "document.body.append(script);"
    )
    assert driver.execute_script("return window.ran") is None
    messages = [entry["message"] for entry in driver.get_log("browser")]
    assert sum("Content Security Policy" in message for message in messages) == 2


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [320, 768, 1280])
def test_the_page_fits_its_width_also_with_all_data_unfolded(visit, name, width):
    driver = visit(name, width)
    driver.execute_script("document.querySelectorAll('details').forEach(node => { node.open = true; })")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    wide = (
        "return [...document.querySelectorAll('body *')].filter(node => !node.closest('.scroll, svg, .skip')"
    )
    wide += f" && node.getBoundingClientRect().right > {width} + 1).map(node => node.outerHTML.slice(0, 80))"
    assert driver.execute_script(wide) == []


@pytest.mark.parametrize("name", PAGES)
def test_dark_mode_changes_page_and_plots_and_nothing_else(visit, name):
    look = (
        "const mark = document.querySelector('svg use, svg path[style*=series]');"
        "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        "getComputedStyle(document.querySelector('svg text')).fill, document.body.innerText]"
    )
    light, dark = (visit(name, scheme=scheme).execute_script(look) for scheme in ("light", "dark"))
    assert light[:3] == ["rgb(255, 255, 255)", "rgb(26, 32, 39)", "rgb(26, 32, 39)"]
    assert dark[:3] == ["rgb(18, 22, 27)", "rgb(232, 236, 240)", "rgb(232, 236, 240)"]
    assert light[3] == dark[3]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(visit, name, scheme):
    contrasts = visit(name, scheme=scheme).execute_script(CONTRASTS)
    assert len(contrasts) > 100
    assert [text for ratio, text in contrasts if ratio < 4.5] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_screen_reader_finds_names_landmarks_and_headings_in_order(visit, name):
    driver = visit(name)
    driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    shown = [node for node in nodes if not node.get("ignored")]

    def role(node):
        return node.get("role", {}).get("value")

    def name_of(node):
        return str(node.get("name", {}).get("value", "")).strip()

    assert {"banner", "main", "navigation", "contentinfo"} <= set(map(role, shown))
    named = (
        "img",
        "image",
        "link",
        "searchbox",
        "region",
        "navigation",
        "table",
        "figure",
        "DisclosureTriangle",
    )
    assert [role(node) for node in shown if role(node) in named and not name_of(node)] == []
    images = [name_of(node) for node in shown if role(node) in ("img", "image")]
    assert len(images) == len(driver.find_elements(By.CSS_SELECTOR, "svg"))
    described = [node for node in shown if role(node) in ("img", "image") and node.get("description")]
    assert len(described) == len(images)
    levels = [
        next(prop["value"]["value"] for prop in node["properties"] if prop["name"] == "level")
        for node in shown
        if role(node) == "heading"
    ]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_every_id_is_there_once_and_every_reference_is_met(visit):
    for name in PAGES:
        missing, repeated = visit(name).execute_script(
            "const ids = [...document.querySelectorAll('[id]')].map(node => node.id);"
            "const links = [...document.querySelectorAll('[href^=\"#\"]')];"
            "const wanted = links.map(node => node.getAttribute('href').slice(1));"
            "return [wanted.filter(id => !ids.includes(id)), ids.filter((id, at) => ids.indexOf(id) < at)]"
        )
        assert (missing, repeated) == ([], [])


def test_the_search_finds_text_and_labels_whatever_their_case(visit, chosen):
    selection, _ = chosen
    texts = [selection.pool.texts[row].lower() for row in selection.indices]
    driver = visit("selection", 320)
    box, status = driver.find_element(By.ID, "query"), driver.find_element(By.ID, "hits")
    assert status.get_attribute("aria-live") == "polite"
    found = []
    for query in ("", "QUERY: intent", "</Script> yes", "$\\frac{", "no such words"):
        box.clear()
        box.send_keys(query)
        matching = [all(word in text for word in query.lower().split()) for text in texts]
        shown = "return [...document.querySelectorAll('.shot')].map(item => item.checkVisibility())"
        assert driver.execute_script(shown) == matching
        assert status.text == f"{sum(matching)} of 16 demonstrations"
        found.append(sum(matching))
    assert found[:2] == [16, 16] and found[-1] == 0
    assert 0 < found[3] < 16


def test_the_search_box_has_a_label_and_the_keyboard_reaches_it(visit):
    driver = visit("selection")
    assert driver.find_element(By.ID, "query").accessible_name == "Find in text and label"


def test_hostile_demonstrations_are_shown_as_they_are(visit, chosen):
    selection, _ = chosen
    driver = visit("selection")
    texts = [
        node.get_attribute("textContent") for node in driver.find_elements(By.CSS_SELECTOR, ".shot p.text")
    ]
    wanted = [
        selection.pool.texts[row]
        .replace("\x1b", "\u241b")
        .replace("\x07", "\u2407")
        .replace("\ufffe", "\ufffd")
        for row in selection.indices
    ]
    assert texts == wanted
    assert driver.find_elements(By.CSS_SELECTOR, "img, .shot script, .shot :is(style, iframe, a)") == []
    assert len(driver.find_elements(By.TAG_NAME, "script")) == 1


def test_paper_is_white_whatever_the_screen(visit):
    driver = visit("selection", scheme="dark")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    try:
        assert (
            driver.execute_script("return getComputedStyle(document.body).backgroundColor")
            == "rgb(255, 255, 255)"
        )
        assert not driver.find_element(By.TAG_NAME, "nav").is_displayed()
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
