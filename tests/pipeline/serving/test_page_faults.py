"""The web page while its service is away, busy or starting."""

import json

import pytest
from pages import expect, in_browser

pytestmark = in_browser


def refuse(status, code):
    problem = {"title": "Refused", "status": status, "detail": "Expected less. Received: more", "code": code}
    headers = {"Content-Type": "application/problem+json", "Retry-After": "1"}
    return lambda route: route.fulfill(status=status, headers=headers, body=json.dumps(problem))


@pytest.mark.parametrize(("status", "code"), [(429, "E_OVERLOADED"), (503, "E_NOT_READY"), (504, "E_TIMEOUT")])
def test_a_search_that_was_refused_is_tried_again(visit, images, status, code):
    page = visit.page
    page.route("**/v1/search*", refuse(status, code))
    visit.drop(images[0])
    expect(page.locator("#problem")).to_contain_text("Try again in 1 s.")
    page.unroute("**/v1/search*")
    page.get_by_role("button", name="Try again").press("Enter")
    expect(page.get_by_role("heading", name="Results", exact=True)).to_be_focused()
    expect(page.locator(".hit .score")).to_have_count(11)
    expect(page.locator("#problem")).to_be_empty()

    visit.drop(b"no image at all")
    expect(page.locator("#problem")).to_contain_text("This image cannot be used")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)


def test_a_service_that_is_away_leaves_no_old_answer(visit, images):
    page = visit.page
    visit.drop(images[0])
    expect(page.locator(".hit .score")).to_have_count(11)
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_role("link", name="Anchorage").click()
    expect(page.locator("#problem")).to_contain_text("The service cannot be reached")
    expect(page.get_by_role("heading", name="Examples")).to_be_visible()
    expect(page.locator(".hit")).to_have_count(0)
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".hit")).to_have_count(12)


def test_a_start_that_was_refused_is_tried_again(browser, site):
    context = browser.new_context()
    page = context.new_page()
    page.route("**/v1/attributes", refuse(429, "E_OVERLOADED"))
    page.goto(site.url)
    again = page.get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    page.get_by_role("link", name="Anchorage").click()  # there are no examples yet
    expect(again).to_be_visible()
    expect(page.locator("#problem")).not_to_contain_text("The page failed")
    page.unroute("**/v1/attributes")
    again.click()
    expect(page.locator(".hit")).to_have_count(12)
    context.close()
