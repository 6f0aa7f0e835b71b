"""The files that make up the page are served, subfolders included, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RunningServer

WEB_CLIENT = Path(__file__).parents[2] / "web_client"
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
FILES = sorted(path.relative_to(WEB_CLIENT).as_posix() for path in WEB_CLIENT.rglob("*") if path.is_file())


def test_web_client_holds_the_page_and_the_client() -> None:
    assert {"index.html", "sample.jpg", "client/client.js"} <= set(FILES)
    assert {Path(name).suffix for name in FILES} <= set(CONTENT_TYPES)


@pytest.mark.parametrize("name", FILES)
def test_file_is_served_under_its_own_path(name: str, server: RunningServer) -> None:
    status, headers, body = server.get(f"/{name}")
    assert status == 200
    assert headers["Content-Type"] == CONTENT_TYPES[Path(name).suffix]
    assert "require-trusted-types-for 'script'" in headers["Content-Security-Policy"]
    assert body == (WEB_CLIENT / name).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/client",
        "/client/",
        "/client.js",
        "/client/../app.js",
        "/client/..%2fapp.js",
        "/client%2fclient.js",
        "/client/client.js/",
        "/client//client.js",
        "/client/../../pyproject.toml",
        "/client/%2e%2e/%2e%2e/pyproject.toml",
    ],
)
def test_nothing_else_is_served_in_subfolder(path: str, server: RunningServer) -> None:
    status, _, body = server.get(path)
    assert (status, b'"no_route"' in body) == (404, True)
