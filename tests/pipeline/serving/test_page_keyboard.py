"""The web page without a mouse: the focus stays where the work is."""

from pages import expect, in_browser

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
