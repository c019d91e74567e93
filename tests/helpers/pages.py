"""The web page of a service in a browser without a window."""

import asyncio
import base64
import shutil
import socket
import threading
from urllib.parse import urlsplit

import pytest
from services import KEY

from anchorage_pipeline.serving.http.app import create_app
from anchorage_pipeline.serving.service import Service
from anchorage_pipeline.serving.settings import ServeSettings

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="no Chromium here: `apt-get install chromium`"),
]


def expect(found):
    """Playwright's assertions, which wait long enough for a busy machine."""
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)
    return expect(found)


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright here: `make setup`")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Site:
    """A service on a free port, in a thread."""

    def __init__(self, releases, **settings):
        import uvicorn

        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._service = Service(ServeSettings(release=releases, keep_images=True, **settings))
        config = uvicorn.Config(create_app(self._service), log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self):
        await self._service.start()
        await self._server.serve(sockets=[self._listener])
        await self._service.stop()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


class Visit:
    """A tab, with what went wrong in it and whom it asked."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(reduced_motion="reduce", **options)
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.url, self.errors, self.refused, self.hosts = url, [], [], set()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", self._ask)
        self.page.goto(url)
        self.settle()

    def _note(self, message):
        if message.type not in ("error", "warning"):
            return
        failed = message.text.startswith("Failed to load resource") and "/page/" not in message.location["url"]
        (self.refused if failed else self.errors).append(message.text)

    def _ask(self, request):
        if not request.url.startswith(("blob:", "data:")):
            self.hosts.add(urlsplit(request.url).netloc)

    def settle(self):
        """Wait until the page shows an answer."""
        expect(self.page.locator("main:not([aria-busy]) .answers:not(:empty)")).to_be_attached()
        expect(self.page.locator(".waiting")).to_have_count(0)

    def ids(self, column=0):
        self.settle()  # the heading changes before the answer is there
        links = self.page.locator(".answers section").nth(column).locator(".hit img, .hit .no-picture")
        alts = links.evaluate_all("all => all.map((one) => one.alt ?? one.getAttribute('aria-label'))")
        return [alt.removeprefix("Item ") for alt in alts]

    def drop(self, data, name="query.png", kind="image/png"):
        self.page.locator("#drop").wait_for()
        make = """([text, name, type]) => {
            const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
            const moved = new DataTransfer();
            moved.items.add(new File([bytes], name, { type }));
            return moved;
        }"""
        moved = self.page.evaluate_handle(make, [base64.b64encode(data).decode(), name, kind])
        for event in ("dragenter", "dragover", "drop"):
            self.page.dispatch_event("#drop", event, {"dataTransfer": moved})

    def enter_key(self, key=KEY):
        expect(self.page.get_by_role("dialog", name="API key")).to_be_visible()
        self.page.get_by_label("Key", exact=True).fill(key)
        self.page.get_by_role("button", name="Use this key").click()
