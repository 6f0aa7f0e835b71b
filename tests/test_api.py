"""What the packages export: everything that a user needs, imported when it is asked for, and documented."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module, util
from pathlib import Path
from types import ModuleType

import pytest

from stream_server import errors

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["inference", "stream_server"])
def test_a_package_exports_what_it_lists(name: str) -> None:
    package = import_module(name)
    assert package.__all__ == sorted(package.__all__)
    homes = [one for names in package._HOMES.values() for one in names]
    assert sorted(homes) == package.__all__
    assert {one: getattr(package, one) for one in package.__all__}
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_every_exception_of_the_clients_is_exported() -> None:
    package = import_module("stream_server")
    raised = {errors.StreamServerError, errors.ClientError, errors.ConfigError, errors.TooLarge}
    assert {cls.__name__ for cls in raised | set(errors.ClientError.__subclasses__())} <= set(package.__all__)


@pytest.mark.parametrize(
    "code",
    [
        "import inference, stream_server; from inference import ItemError, ModelSource, ServingSettings",
        "from stream_server import ClientError, Refused, Result",
    ],
)
def test_importing_a_package_imports_nothing_heavy(code: str) -> None:
    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"aiohttp", "asyncio", "cv2", "numpy", "onnxruntime", "rich", "websockets"}
    assert not heavy & set(done.stdout.split())


def generator() -> ModuleType:
    spec = util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec
    assert spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_api_page_is_what_the_docstrings_say() -> None:
    assert (ROOT / "docs" / "api.md").read_text("utf-8") == generator().document(), "run: make api"
