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


def test_the_focus_returns_when_nothing_was_done(visit):
    page = visit.page
    back = page.get_by_role("button", name="Roll back to release 1")
    back.press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Roll back").press("Enter")
    expect(page.get_by_role("dialog", name="API key")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#problem")).to_contain_text("Unauthorized")
    expect(back).to_be_focused()

    page.locator(".edit").first.press("Enter")
    delete = page.get_by_role("dialog", name="Change an item").get_by_role("button", name="Delete")
    delete.press("Enter")
    expect(page.get_by_role("dialog", name="Delete the item?").get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(delete).to_be_focused()
    save = page.get_by_role("button", name="Save")
    save.press("Enter")
    expect(page.get_by_role("dialog", name="API key")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#item-problem")).to_contain_text("Unauthorized")
    expect(save).to_be_focused()


def test_buttons_say_which_release_they_are_for(visit):
    page = visit.page
    releases = [
        {
            "version": version,
            "current": version == 2,
            "loaded": True,
            "created": "2026-01-01",
            "metrics": {},
            "fault": "",
        }
        for version in (1, 2, 3)
    ]
    page.route("**/v1/releases", lambda route: route.fulfill(json={"releases": releases}))
    page.reload()
    visit.settle()
    for version in (3, 1):
        page.get_by_role("button", name=f"Compare with release {version}").press("Enter")
        stop = page.get_by_role("button", name=f"Stop comparing with release {version}")
        expect(stop).to_be_focused()
        stop.press("Enter")
        expect(page.get_by_role("button", name=f"Compare with release {version}")).to_be_focused()
