"""The web page in a browser without a window; in every test, without errors, other hosts or breaches of the policy."""

import base64
import io
import shutil

import numpy as np
import pytest
from pages import Site, Visit, expect, in_browser
from PIL import Image
from releases import encode
from services import KEY

pytestmark = in_browser


def nearest(images, query):
    """Ids of the images in order of cosine similarity, the query itself left out: the model centres the pixels."""
    rows = [np.asarray(Image.open(io.BytesIO(image)), np.float64).ravel() - 127.5 for image in images]
    unit = np.stack([row / np.linalg.norm(row) for row in rows])
    order = np.argsort(-(unit @ unit[query]))
    return [f"class-{number % 3}/{number}.png" for number in order if number != query]


def test_drop_click_filter_and_back(visit, images):
    page = visit.page
    expect(page.get_by_role("heading", name="Examples")).to_be_visible()
    expect(page.locator(".hit")).to_have_count(12)
    expect(page.locator(".primary-metric")).to_have_text("90.0 % recall@1 (80.0 % to 95.0 %)")

    visit.drop(images[0])
    expect(page.get_by_role("heading", name="Results", exact=True)).to_be_focused()
    expect(page.locator(".hit .score")).to_have_count(11)
    assert visit.ids() == nearest(images, 0)
    expect(page.get_by_text("The gallery has the same content")).to_contain_text("class-0/0.png")
    expect(page.get_by_role("status")).to_contain_text("11 results.")

    second = nearest(images, 0)[1]
    page.locator(".hit").nth(1).click()
    expect(page.get_by_role("heading", name="Similar items")).to_be_focused()
    expect(page.locator(".hit .score")).to_have_count(11)
    assert visit.ids() == nearest(images, int(second.split("/")[1].removesuffix(".png")))
    trail = page.get_by_role("navigation", name="Trail of searches").get_by_role("listitem")
    expect(trail).to_have_text(["Examples", "query.png", second.split("/")[0]])

    even = int(second.split("/")[1].removesuffix(".png")) % 2 == 0
    page.get_by_role("checkbox", name="red").check()
    expect(page.locator(".hit .score")).to_have_count(5 if even else 6)  # six are red, the query among them or not
    assert page.evaluate("new URLSearchParams(location.search).get('filter')") == '{"attributes":{"color":["red"]}}'
    page.reload()
    visit.settle()
    expect(page.get_by_role("checkbox", name="red")).to_be_checked()
    page.get_by_role("button", name="Clear the filter").click()
    expect(page.locator(".hit .score")).to_have_count(11)
    page.get_by_label("Label", exact=True).first.fill("class-2")
    page.keyboard.press("Enter")
    expect(page.locator(".hit .score")).to_have_count(3 if second.startswith("class-2") else 4)

    page.go_back()
    expect(page.get_by_text("The image of this search is gone")).to_be_visible()  # it was loaded anew since
    page.go_back()
    expect(page.get_by_role("heading", name="Examples")).to_be_focused()
    expect(page.locator(".hit")).to_have_count(12)


def test_an_image_can_be_pasted_or_chosen(visit, images):
    page = visit.page
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": images[3]})
    expect(page.locator(".hit .score")).to_have_count(11)
    assert visit.ids() == nearest(images, 3)
    paste = """(text) => {
        const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([bytes], "b.png", { type: "image/png" }));
        document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
    }"""
    page.evaluate(paste, base64.b64encode(images[7]).decode())
    expect(page.get_by_text("b.png").first).to_be_visible()
    visit.settle()
    assert visit.ids() == nearest(images, 7)
    page.go_back()
    visit.settle()
    assert visit.ids() == nearest(images, 3)
    assert page.get_attribute("#camera", "capture") == "environment"


def test_a_filter_waits_for_a_search_and_keeps_the_focus(visit, images):
    page = visit.page
    note = page.get_by_text("The filter applies to searches, not to examples.", exact=True)
    red = page.get_by_role("checkbox", name="red")
    red.press("Space")
    expect(note).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("The filter applies to searches")
    expect(red).to_be_focused()
    visit.drop(images[0])
    expect(page.locator(".hit .score")).to_have_count(5)  # six are red, the image among them
    expect(note).to_have_count(0)
    red.press("Space")
    expect(page.locator(".hit .score")).to_have_count(11)
    expect(red).to_be_focused()
    page.go_back()
    expect(red).to_be_checked()
    expect(note).to_be_visible()


def test_problems_are_shown_as_sentences(visit):
    page = visit.page
    visit.drop(b"no image at all")
    problem = page.locator("#problem .problem")
    expect(problem).to_contain_text("This image cannot be used")
    expect(problem).to_contain_text("Expected")
    assert visit.refused
    visit.drop(b"text", "a.txt", "text/plain")
    expect(problem).to_contain_text("This is no image")
    page.goto(f"{visit.url}/?id=nothing-like-this")
    expect(problem).to_contain_text("Expected the id of an item. Received: 'nothing-like-this'")


def test_compare_and_roll_back_with_the_key(visit, images):
    page = visit.page
    card = page.get_by_role("complementary", name="Release")
    expect(card.locator(".badge")).to_have_text("release 2")
    expect(card.locator(".big")).to_have_text("90.0 %")
    expect(card.get_by_role("link", name="Read the report")).to_have_attribute("href", "/report/")

    visit.drop(images[0])
    expect(page.locator(".hit .score")).to_have_count(11)
    page.get_by_role("button", name="Compare").click()
    visit.enter_key("another key")
    expect(page.get_by_text("The service does not accept this key.")).to_be_visible()
    visit.enter_key()
    expect(page.locator(".answers section")).to_have_count(2)
    expect(page.locator(".answers h3")).to_have_text(["Release 2current", "Release 1"])
    assert visit.ids(0) == visit.ids(1) == nearest(images, 0)  # the models differ in a factor only
    expect(page.get_by_text("11 of 11 results are in both answers.")).to_be_visible()
    stores = page.evaluate("[Object.keys(sessionStorage), Object.keys(localStorage), document.cookie]")
    assert stores == [["anchorage-key"], [], ""]
    page.get_by_role("button", name="Stop comparing").click()
    expect(page.locator(".answers section")).to_have_count(1)

    for version, verb in ((1, "Roll back"), (2, "Switch")):
        page.get_by_role("button", name=f"{verb} to release {version}").click()
        page.get_by_role("dialog").get_by_role("button", name=verb).click()
        expect(card.locator(".badge")).to_have_text(f"release {version}")
        expect(page.get_by_role("status")).to_contain_text(f"Release {version} is served now.")


def test_add_relabel_and_delete_with_the_key(visit):
    page = visit.page
    picture = encode(np.random.default_rng(50).integers(0, 256, (4, 4, 3), np.uint8))
    visit.drop(picture, "mine.png")
    expect(page.locator(".hit .score")).to_have_count(12)
    page.get_by_role("button", name="Add to the gallery").click()
    dialog = page.get_by_role("dialog", name="Add an item")
    expect(dialog.get_by_label("Id")).to_have_value("mine.png")
    dialog.get_by_label("Id").fill("mine/1 & 2.png")
    dialog.get_by_label("Label").fill("<b>mine</b>")
    dialog.get_by_label("Attributes").fill("color: green\nsize: small")
    dialog.get_by_role("button", name="Add").click()
    visit.enter_key()
    expect(page.get_by_role("status")).to_have_text("mine/1 & 2.png is added.")
    expect(page.get_by_text("The gallery has the same content")).to_contain_text("mine/1 & 2.png")
    expect(page.get_by_role("checkbox", name="green")).to_be_visible()

    page.get_by_role("button", name="mine/1 & 2.png").click()
    expect(page.locator(".query-title")).to_have_text("<b>mine</b>")  # text, not markup
    page.get_by_role("button", name="Edit or delete").click()
    dialog = page.get_by_role("dialog", name="Change an item")
    dialog.get_by_label("Label").fill("ours")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_have_text("mine/1 & 2.png is changed.")
    expect(page.locator(".query-title")).to_have_text("ours")

    page.get_by_role("button", name="Edit or delete").click()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog", name="Delete the item?").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("status")).to_have_text("mine/1 & 2.png is deleted.")
    expect(page.locator(".hit .score")).to_have_count(12)
    assert "mine/1 & 2.png" not in visit.ids()


def test_a_new_label_leaves_attributes_as_they_are(browser, published, tmp_path):
    releases = shutil.copytree(published, tmp_path / "releases")
    attributes = {"made: where": "here: there", "note": "two\nlines"}
    with Site(releases, api_key=KEY) as site:
        visit = Visit(browser, site.url)
        page, item = visit.page, f"{site.url}/v1/items/odd"
        asked = {
            "headers": {"Authorization": f"Bearer {KEY}"},
            "data": {"vector": [1.0] * 48, "attributes": attributes},
        }
        assert page.request.put(item, **asked).ok
        page.goto(f"{site.url}/?id=odd")
        page.get_by_role("button", name="Edit or delete").click()
        dialog = page.get_by_role("dialog", name="Change an item")
        dialog.get_by_label("Label").fill("ours")
        dialog.get_by_role("button", name="Save").click()
        visit.enter_key()
        expect(page.locator(".query-title")).to_have_text("ours")
        assert page.request.get(item).json()["attributes"] == attributes

        page.get_by_role("button", name="Edit or delete").click()
        dialog.get_by_label("Attributes").fill("size: small")
        dialog.get_by_role("button", name="Save").click()
        expect(page.locator("#query .tags")).to_have_text("size: small")
        assert page.request.get(item).json()["attributes"] == {"size": "small"}
        visit.context.close()


def test_a_service_without_a_key_says_so(browser, published, tmp_path):
    releases = shutil.copytree(published, tmp_path / "releases")
    with Site(releases) as site:
        visit = Visit(browser, site.url)
        visit.page.get_by_role("button", name="Compare").click()
        expect(visit.page.locator("#problem")).to_contain_text("so it only searches")
        visit.context.close()


# Names of controls as assistive technology gets them, roughly: a label, or text, or an attribute.
NAMELESS = """() => {
  const controls = [...document.querySelectorAll("a, button, input:not([hidden]), select, textarea, summary")];
  return controls.filter((one) => {
    const labels = [...(one.labels ?? [])].map((label) => label.textContent).join("");
    const named = [...one.querySelectorAll("img[alt]")].map((image) => image.alt).join("");
    return !(one.getAttribute("aria-label") || labels || one.textContent || named).trim();
  }).map((one) => one.outerHTML);
}"""

# Texts whose contrast to the nearest background is below 4.5, after WCAG 2.2.
FAINT = """() => {
    const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
        .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
        .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (one) => {
        for (; one; one = one.parentElement) {
            const [r, g, b, a = 1] = parse(getComputedStyle(one).backgroundColor);
            if (a === 1) return [r, g, b];
        }
        return [255, 255, 255];
    };
    const texts = [...document.querySelectorAll("body *")].filter((one) =>
        one.checkVisibility({ visibilityProperty: true, opacityProperty: true }) &&
        [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
    return texts.map((one) => {
        const pair = [light(parse(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
        return [(pair[0] + 0.05) / (pair[1] + 0.05), one.textContent.trim().slice(0, 30), one.className];
    }).filter(([ratio]) => ratio < 4.5);
}"""


# Where the focus is, and how it is outlined.
STOP = """() => {
    const { id, className } = document.activeElement;
    return [id || className, getComputedStyle(document.activeElement).outlineStyle];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everyone_can_use_it(browser, site, images, scheme, width):
    phone = width < 600
    screen = {"width": width, "height": 844}
    visit = Visit(browser, site.url, viewport=screen, color_scheme=scheme, has_touch=phone, is_mobile=phone)
    page = visit.page
    visit.drop(images[0])
    expect(page.locator(".hit .score")).to_have_count(11)
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(FAINT) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for role in ("banner", "main", "complementary"):
        expect(page.get_by_role(role)).to_have_count(1)
    assert page.get_attribute("html", "lang") == "en"
    assert page.locator("h1").count() == 1
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator(".hit img:not([loading=lazy])").count() == 0
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"
    assert page.get_by_text("Take a photo").is_visible() == phone

    page.goto(site.url)
    visit.settle()
    stops = []
    for _ in range(6):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(STOP))
    assert [name for name, _ in stops[:5]] == ["skip", "brand", "add-open", "key-open", "file"]
    assert [outline for name, outline in stops if name in ("brand", "add-open", "key-open")] == ["solid"] * 3
    page.locator(".hit").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Similar items")).to_be_focused()
    visit.settle()
    page.locator(".edit").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Change an item").get_by_label("Label")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".edit").first).to_be_focused()
    assert visit.errors == []
    visit.context.close()


def test_nothing_moves_while_pictures_load(visit):
    page = visit.page
    page.evaluate(
        """() => { window.shift = 0; new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
        }).observe({ type: "layout-shift", buffered: true }); }"""
    )
    page.wait_for_load_state("networkidle")
    assert page.evaluate("window.shift") < 0.1  # "good" of the Core Web Vitals
