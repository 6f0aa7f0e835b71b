"""The page in a real browser, on a real server, with a video as the webcam."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.async_api import ConsoleMessage, Page, async_playwright, expect

from tests import browser
from tests.conftest import RunningServer
from tests.web_client import moving_portrait
from tests.web_client.models import MARKUP
from tests.web_client.prefix_proxy import run_proxy

PICTURE = Path(__file__).parents[2] / "docs" / "page.png"
PATIENCE_MS = 20_000  # takes well under a second on an idle machine
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
NO_VALUE = "\N{EN DASH}"

# no requests of Chromium's own
OFFLINE_FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
)
FAKE_CAMERA = "--use-fake-device-for-media-stream"
ALLOW_CAMERA = "--use-fake-ui-for-media-stream"

StartServer = Callable[..., RunningServer]

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def chromium() -> str:
    path = browser.find()
    if path is None:
        pytest.fail(f"{browser.ADVICE}, or: make browser", pytrace=False)
    return path


@pytest.fixture(scope="module")
def camera_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "portrait.mjpeg"
    moving_portrait.write_mjpeg(path)
    return path


class PageErrors(list[str]):
    """A page's console errors and uncaught exceptions."""

    def listen(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.append(str(error)))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.append(f"{message.text} {message.location}")


@asynccontextmanager
async def open_page(
    chromium: str, url: str, *flags: str, allow_errors: bool = False, **options: Any
) -> AsyncIterator[Page]:
    """Open the page in its own browser; by default, check that it had no errors."""
    errors = PageErrors()
    async with async_playwright() as playwright:
        chrome = await playwright.chromium.launch(executable_path=chromium, args=[*OFFLINE_FLAGS, *flags])
        context = await chrome.new_context(**{"viewport": DESKTOP, **options})
        page = await context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        errors.listen(page)
        await page.goto(url)
        yield page
        await chrome.close()
    assert allow_errors or errors == []


async def count(page: Page, name: str) -> int:
    text = await page.locator(f"[data-count={name}]").inner_text()
    return int(text.replace(",", "").replace(NO_VALUE, "0"))


async def count_above(page: Page, name: str, least: int) -> None:
    """Wait until a counter is above `least`."""
    await page.evaluate(COUNT_ABOVE, {"name": name, "least": least, "patience": PATIENCE_MS + 100 * least})


COUNT_ABOVE = """
async ({ name, least, patience }) => {
  const shown = () => Number(document.querySelector(`[data-count=${name}]`).textContent.replace(",", ""));
  const deadline = performance.now() + patience;
  while (!(shown() > least)) {
    if (performance.now() > deadline) throw new Error(`${name} stayed at ${shown()}`);
    await new Promise(requestAnimationFrame);
  }
}
"""

COUNTS = """
Object.fromEntries(
  [...document.querySelectorAll("[data-count]")].map((each) => [
    each.dataset.count, Number(each.textContent.replace(",", "")),
  ]),
)
"""

# Wait for a frame other than `before`, then read its number and the box drawn over it from the pixels. The box is
# the bounding box of all pixels in its colour. Both are read in one task, so that they belong together.
SHOWN = """
async ({ before, bits, block, patience }) => {
  const viewer = document.querySelector("#viewer");
  const answered = document.querySelector("#answered");
  const overlay = document.querySelector("#overlay");
  const deadline = performance.now() + patience;
  for (;;) {
    await new Promise(requestAnimationFrame);
    if (performance.now() > deadline) throw new Error("no new frame is shown");
    if (answered.hidden) continue;
    const frame = answered.getContext("2d");
    const scale = answered.width / 640;
    let number = 0;
    for (let bit = 0; bit < bits; bit++) {
      const at = [(bit + 0.5) * block * scale, 0.5 * block * scale];
      if (frame.getImageData(...at, 1, 1).data[1] > 127) number |= 1 << bit;
    }
    if (number === before) continue;
    const { width, height } = overlay;
    const { data } = overlay.getContext("2d").getImageData(0, 0, width, height);
    let [left, top, right, bottom] = [width, height, -1, -1];
    for (let n = 0; n < data.length; n += 4) {
      if (data[n] !== 45 || data[n + 1] !== 212 || data[n + 2] !== 191 || data[n + 3] !== 255) continue;
      const [x, y] = [(n / 4) % width, Math.floor(n / 4 / width)];
      [left, top] = [Math.min(left, x), Math.min(top, y)];
      [right, bottom] = [Math.max(right, x + 1), Math.max(bottom, y + 1)];
    }
    const pixels = width / viewer.clientWidth;
    const box = right < 0 ? null : [left, top, right - left, bottom - top].map((each) => each / pixels);
    return { number, box, size: [viewer.clientWidth, viewer.clientHeight] };
  }
}
"""


def box_in_viewer(
    box: moving_portrait.Box, size: tuple[float, float], *, mirrored: bool
) -> moving_portrait.Box:
    """Map a box from a frame to the viewer, which shows the frame as large as fits and centred."""
    x, y, w, h = box
    if mirrored:
        x = moving_portrait.WIDTH - x - w
    scale = min(size[0] / moving_portrait.WIDTH, size[1] / moving_portrait.HEIGHT)
    left = (size[0] - moving_portrait.WIDTH * scale) / 2
    top = (size[1] - moving_portrait.HEIGHT * scale) / 2
    return left + x * scale, top + y * scale, w * scale, h * scale


@pytest.mark.parametrize(
    ("mirrored", "width", "options"),
    [
        (True, "640", {"viewport": DESKTOP, "device_scale_factor": 1}),
        (False, "320", {"viewport": PHONE, "device_scale_factor": 2}),
    ],
    ids=["desktop, mirrored", "phone, small frames"],
)
async def test_box_follows_face(
    server: RunningServer,
    chromium: str,
    camera_video: Path,
    mirrored: bool,
    width: str,
    options: dict[str, Any],
) -> None:
    flags = (FAKE_CAMERA, ALLOW_CAMERA, f"--use-file-for-fake-video-capture={camera_video}")
    async with open_page(chromium, server.url, *flags, **options) as page:
        await page.get_by_label("Frame width").select_option(width)
        await page.get_by_label("Show the answered frame").check()
        await page.get_by_role("button", name="Webcam").click()
        mirror = page.get_by_label("Mirror")
        await expect(mirror).to_be_checked()
        await mirror.set_checked(mirrored)
        await expect(page.locator("#faces")).to_have_text("1")

        arguments = {
            "before": -1,
            "bits": moving_portrait.BITS,
            "block": moving_portrait.BLOCK,
            "patience": PATIENCE_MS,
        }
        ious = {}
        while len(ious) < 25:
            shown = await page.evaluate(SHOWN, arguments)
            arguments["before"] = shown["number"]
            assert shown["box"], f"no box over frame {shown['number']}"
            face = moving_portrait.face_at(shown["number"])
            expected = box_in_viewer(face, shown["size"], mirrored=mirrored)
            ious[shown["number"]] = moving_portrait.iou(tuple(shown["box"]), expected)
        assert min(ious.values()) >= 0.5, ious
        assert await page.evaluate("getComputedStyle(answered).transform") == (
            "matrix(-1, 0, 0, 1, 0, 0)" if mirrored else "none"
        )


async def test_sample_streams_with_live_stats(server: RunningServer, chromium: str, tmp_path: Path) -> None:
    async with open_page(chromium, server.url, color_scheme="light") as page:
        await page.get_by_role("button", name="Sample").click()
        await expect(page.locator("#faces")).to_have_text("1")
        for name in ("captured", "sent", "results"):
            await count_above(page, name, 100)
        for name in (
            "round-trip-50",
            "round-trip-99",
            "age-50",
            "age-99",
            "freshness-50",
            "freshness-99",
            "answers",
        ):
            # a machine that stalls for a moment has no answers, so no value or 0.0
            await expect(page.locator(f"#{name}")).to_have_text(re.compile("[1-9]"))
        await expect(page.locator("#bottleneck-text")).to_have_text(
            re.compile(r"^None\. .* \d+ ms after capture\.$|: \d+ ms of the \d+ ms from capture to answer\.$")
        )
        assert await page.locator("#camera-banner").is_hidden()
        if not PICTURE.exists():
            await count_above(page, "results", 900)  # fills half of the chart
        picture = tmp_path / "page.png"
        picture.write_bytes(compressed(await page.screenshot()))
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("#faces")).to_have_text(NO_VALUE)
    assert picture.stat().st_size < 300_000
    # kept between runs, so that a run leaves no diff; delete the file to renew it
    if not PICTURE.exists():
        shutil.copy(picture, PICTURE)


def compressed(png: bytes) -> bytes:
    """Halve the size of a PNG by reducing its shades to every sixth, which is hardly visible."""
    shades = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).astype(int)
    rounded = np.minimum((shades + 3) // 6 * 6, 255).astype(np.uint8)
    return cv2.imencode(".png", rounded, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


async def test_replaced_and_superseded_frames_are_counted_apart(
    start_server: StartServer, chromium: str
) -> None:
    server = start_server("--workers", "1", "--model", "slow=tests.web_client.models:Slow")
    async with open_page(chromium, server.url) as page:
        await expect(page.get_by_label("Model").first).to_have_value("slow")
        await page.get_by_role("button", name="Sample").click()
        await count_above(page, "replaced", 10)
        await count_above(page, "results", 5)
        assert await count(page, "superseded") == 0
        await expect(page.locator("#bottleneck-text")).to_contain_text("Inference: ")

        await page.get_by_label("Send every frame").check()
        await count_above(page, "superseded", 10)
        await count_above(page, "results", 5)
        counts = await page.evaluate(COUNTS)  # read in one task
        assert counts["sent"] >= counts["results"] + counts["superseded"]
        assert counts["superseded"] > 10
        assert counts["errors"] == 0


async def test_page_works_under_path_prefix_of_proxy(server: RunningServer, chromium: str) -> None:
    async with run_proxy(server.url) as proxy, open_page(chromium, proxy.url) as page:
        await expect(page.locator("#health")).to_have_text("Ready")
        await page.get_by_role("button", name="Sample").click()
        await expect(page.locator("#faces")).to_have_text("1")
        await page.get_by_role("tab", name="Text").click()
        await page.get_by_role("button", name="A pushy offer").click()
        await expect(page.locator("#label")).to_have_text("spam")
        await page.get_by_role("tab", name="Models").click()
        await expect(page.locator("[data-model=faces] [data-label=Age]")).to_contain_text("p99")
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(245, 246, 248)"
    assert proxy.outside == []
    streams = {"/v2/models/faces/stream", "/v2/models/spam/stream"}
    assert streams | {"/sample.jpg", "/style.css", "/icon.svg", "/client/client.js"} <= proxy.inside


async def test_picture_and_video_files_stream(server: RunningServer, chromium: str, tmp_path: Path) -> None:
    video = tmp_path / "video.webm"
    moving_portrait.write_webm(video)
    invalid = tmp_path / "invalid.mp4"
    invalid.write_bytes(b"not a video")
    async with open_page(chromium, server.url) as page:
        for file in (moving_portrait.SAMPLE, video):
            async with page.expect_file_chooser() as chooser:
                await page.get_by_role("button", name="Open file").click()
            await (await chooser.value).set_files(file)
            await expect(page.locator("#faces")).to_have_text("1")
            await count_above(page, "results", 10)
        await page.locator("#file").set_input_files(invalid)
        await expect(page.locator("#camera-message")).to_contain_text("cannot show that file")
        await expect(page.locator("#faces")).to_have_text(NO_VALUE)


async def test_denied_camera_is_explained(server: RunningServer, chromium: str) -> None:
    async with open_page(chromium, server.url, FAKE_CAMERA, permissions=[]) as page:
        await page.get_by_role("button", name="Webcam").click()
        await expect(page.locator("#camera-message")).to_contain_text("Camera access was denied.")
        await page.get_by_role("button", name="Sample").click()
        await expect(page.locator("#faces")).to_have_text("1")
        await expect(page.locator("#camera-banner")).to_be_hidden()


async def test_missing_camera_is_explained(server: RunningServer, chromium: str) -> None:
    async with open_page(chromium, server.url, ALLOW_CAMERA) as page:
        await page.get_by_role("button", name="Webcam").click()
        await expect(page.locator("#camera-message")).to_contain_text("No camera found.")


async def test_missing_camera_access_over_http_is_explained(start_server: StartServer, chromium: str) -> None:
    server = start_server("--workers", "1", "--model", "echo", "--allow-host", "remote.test")
    url = server.url.replace("127.0.0.1", "remote.test")
    rules = "--host-resolver-rules=MAP remote.test 127.0.0.1"
    async with open_page(chromium, url, FAKE_CAMERA, ALLOW_CAMERA, rules) as page:
        await page.get_by_role("button", name="Webcam").click()
        await expect(page.locator("#camera-message")).to_contain_text("only on pages opened over https")


async def test_page_reconnects_when_server_is_back(start_server: StartServer, chromium: str) -> None:
    server = start_server("--workers", "1", "--model", "faces")
    async with open_page(chromium, server.url, allow_errors=True) as page:
        # delay the scheduled reconnect by minutes, or the button could be gone before the click
        await page.evaluate("Math.random = () => 1_000")
        await page.get_by_role("button", name="Sample").click()
        await count_above(page, "results", 5)
        server.stop()
        banner = page.locator("#camera-banner")
        await expect(banner).to_contain_text(re.compile(r"The server cannot be reached\. Retrying in \d+ s"))
        await expect(page.locator("#health")).to_have_text("Unreachable")
        await expect(page.locator("#faces")).to_have_text(NO_VALUE)
        before = await count(page, "results")
        server.start()
        await page.get_by_role("button", name="Retry now").click()
        await expect(banner).to_be_hidden()
        await count_above(page, "results", before)
        await expect(page.locator("#health")).to_have_text("Ready")


async def test_model_that_failed_to_load_is_explained(start_server: StartServer, chromium: str) -> None:
    server = start_server("--workers", "1", "--model", "faces=tests.web_client.models:Broken")
    async with open_page(chromium, server.url, allow_errors=True) as page:
        await page.get_by_role("button", name="Sample").click()
        await expect(page.locator("#camera-banner")).to_contain_text("loading it failed with OSError")
        await expect(page.locator("#health")).to_have_text("Not ready")
        await page.get_by_role("tab", name="Models").click()
        row = page.locator("[data-model=faces]")
        await expect(row.locator(".state")).to_have_text("unavailable")
        await expect(row).to_contain_text("loading it failed with OSError")


async def test_text_is_classified_as_it_is_typed(server: RunningServer, chromium: str) -> None:
    async with open_page(chromium, f"{server.url}/#text") as page:
        label = page.locator("#label")
        await page.get_by_role("button", name="A pushy offer").click()
        await expect(label).to_have_text("spam")
        await page.get_by_role("button", name="A note to a friend").click()
        await expect(label).to_have_text("ham")
        await expect(page.locator("#scores dt").first).to_have_text("ham")
        await expect(page.locator("#text-timing")).to_contain_text("answered in")
        await page.get_by_role("button", name="Clear").click()
        await expect(label).to_have_text(NO_VALUE)
        await page.get_by_label("Your text").press_sequentially("Are we still meeting for lunch on Friday?")
        await expect(label).to_have_text("ham")


async def test_odd_outputs_of_a_model_cause_no_error(chromium: str, start_server: StartServer) -> None:
    server = start_server("--workers", "1", "--model", "odd=tests.web_client.models:Odd")
    async with open_page(chromium, server.url) as page:
        await page.get_by_role("button", name="Sample").click()
        await count_above(page, "results", 30)  # each shape several times


async def test_markup_from_model_is_shown_as_text(start_server: StartServer, chromium: str) -> None:
    server = start_server("--workers", "1", "--model", "markup=tests.web_client.models:Markup")
    async with open_page(chromium, f"{server.url}/#text") as page:
        await expect(page.locator("#text-model")).to_have_value("markup")
        await page.get_by_label("Your text").fill("hello")
        await expect(page.locator("#label")).to_have_text(MARKUP)
        await expect(page.locator("#scores dt")).to_have_text(MARKUP)
        await page.get_by_role("tab", name="Models").click()
        await expect(page.locator("[data-model=markup] th small")).to_have_text(MARKUP)
        assert await page.locator("main img, main script").count() == 0
        assert await page.title() == "Stream inference server"


async def test_models_are_shown_with_their_state(server: RunningServer, chromium: str) -> None:
    async with open_page(chromium, f"{server.url}/#models") as page:
        for name, kind in (("faces", "image"), ("spam", "text"), ("echo", "bytes")):
            row = page.locator(f"[data-model={name}]")
            await expect(row.locator(".state")).to_have_text("ready")
            await expect(row.locator("[data-label=Input]")).to_contain_text(kind)


async def test_models_are_shown_with_their_stats(start_server: StartServer, chromium: str) -> None:
    server = start_server("--workers", "1", "--model", "faces")
    async with open_page(chromium, server.url) as page:
        await page.get_by_role("button", name="Sample").click()
        await expect(page.locator("#faces")).to_have_text("1")
        await page.get_by_role("tab", name="Models").click()
        row = page.locator("[data-model=faces]")
        await expect(row.locator("[data-label=Answered]")).to_contain_text(
            re.compile(r"^[1-9]\d*0 dropped, 0 errors$")
        )
        await expect(row.locator("[data-label=Age]")).to_contain_text(re.compile(r"^[\d.]+ msp99 [\d.]+ ms$"))
        await expect(row.locator("[data-label=Streams]")).to_contain_text("running")


async def test_tabs_work_by_keyboard(server: RunningServer, chromium: str) -> None:
    async with open_page(chromium, server.url) as page:
        tabs = page.get_by_role("tab")
        await tabs.nth(0).focus()
        for key, name in (
            ("ArrowRight", "Text"),
            ("ArrowRight", "Models"),
            ("ArrowRight", "Camera"),
            ("ArrowLeft", "Models"),
            ("Home", "Camera"),
            ("End", "Models"),
        ):
            await page.keyboard.press(key)
            tab = page.get_by_role("tab", name=name)
            await expect(tab).to_be_focused()
            await expect(tab).to_have_attribute("aria-selected", "true")
            await expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
            assert await page.get_by_role("tabpanel").count() == 1
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Tab")
        await expect(tab).to_be_focused()
        assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_page_does_not_scroll_sideways_on_phone(
    server: RunningServer, chromium: str, scheme: str
) -> None:
    async with open_page(chromium, server.url, viewport=PHONE, color_scheme=scheme) as page:
        await page.get_by_role("button", name="Sample").click()
        await expect(page.locator("#faces")).to_have_text("1")
        for name in ("Text", "Models", "Camera"):
            await page.get_by_role("tab", name=name).click()
            await expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
            assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(245, 246, 248)", "dark": "rgb(15, 18, 22)"}[scheme]
