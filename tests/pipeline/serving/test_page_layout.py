"""The web page on narrow screens, with large letters and with long names: nothing is cut off."""

import pytest
from pages import expect, in_browser

pytestmark = in_browser

LONG = "x" * 300

# How many lines the text of an element takes.
LINES = """(one) => {
    const range = document.createRange();
    range.selectNodeContents(one);
    return new Set([...range.getClientRects()].map((box) => box.top)).size;
}"""


@pytest.mark.parametrize(("width", "letters"), [(1280, 200), (390, 200), (320, 100)])
def test_everything_fits_the_width(visit, images, width, letters):
    page = visit.page
    page.set_viewport_size({"width": width, "height": 844})
    page.evaluate("sessionStorage.setItem('anchorage-key', 'some key')")
    page.reload()
    page.evaluate("(size) => { document.documentElement.style.fontSize = `${size}%`; }", letters)
    visit.drop(images[0])
    expect(page.locator(".hit .score")).to_have_count(11)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("Add item", "Key is set"):
        assert page.get_by_role("button", name=name).evaluate(LINES) == 1


def test_a_question_about_a_long_id_can_be_read(visit):
    page = visit.page
    item = {"id": LONG, "label": LONG, "attributes": {LONG: LONG}, "searchable": True, "image": None}
    page.route("**/v1/items/*", lambda route: route.fulfill(json=item))
    page.locator(".edit").first.press("Enter")
    page.locator("#item-delete").click()
    dialog = page.get_by_role("dialog", name="Delete the item?")
    expect(dialog).to_contain_text(LONG)
    assert dialog.evaluate("(one) => one.scrollWidth <= one.clientWidth")
