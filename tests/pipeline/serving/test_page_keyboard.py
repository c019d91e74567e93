"""The web page without a mouse: the focus stays where the work is."""

from pages import expect, in_browser
from services import KEY

pytestmark = in_browser


def test_the_skip_link_leaves_the_search_as_it_is(visit, images):
    page = visit.page
    visit.drop(images[0])
    expect(page.locator(".hit .score")).to_have_count(11)
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.wait_for_timeout(300)  # a step of the history would be shown by then
    expect(page.locator("#results-title")).to_have_text("Results")
    expect(page.locator(".hit .score")).to_have_count(11)


def test_a_refused_key_is_typed_anew(visit, images):
    page = visit.page
    reason = page.locator("#key-reason")
    visit.drop(images[0])
    expect(page.locator(".hit .score")).to_have_count(11)
    page.get_by_role("button", name="Compare").press("Enter")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    page.keyboard.type("another key")
    page.keyboard.press("Enter")
    expect(reason).to_contain_text("The service does not accept this key.")
    expect(page.locator("#key-open")).to_have_text("Key")  # a refused key is not kept
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.locator(".answers section")).to_have_count(2)

    page.get_by_role("button", name="Key is set").press("Enter")
    expect(reason).to_contain_text("need the key of this service")
    page.keyboard.type("typed over it")
    expect(page.get_by_label("Key", exact=True)).to_have_value("typed over it")
