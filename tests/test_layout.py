"""The shape of the code: who may import whom, what is written nowhere, and that every module stands alone."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("benchmarks", "inference", "stream_server")


def modules() -> dict[str, ast.Module]:
    """Every module of the packages, parsed, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found[dotted.removesuffix(".__init__")] = ast.parse(file.read_text("utf-8"))
    return found


MODULES = modules()
NAMES = sorted(MODULES)


def imports(name: str) -> set[str]:
    """The modules that a module imports, in functions and for the type checker too."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from package import module` is an import of the module
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module
                for alias in node.names
            }
    return found


def roots(name: str) -> set[str]:
    return {imported.partition(".")[0] for imported in imports(name)}


def within(name: str, *places: str) -> bool:
    """Whether a module is one of these or in one of these packages."""
    return any(name == place or name.startswith(place + ".") for place in places)


def test_there_is_something_to_check() -> None:
    assert {"inference.engine", "stream_server.server.session", "stream_server.commands.serve"} <= set(
        MODULES
    )
    assert "inference.pool.pool" in imports("inference.engine")
    assert "inference.items" in imports("stream_server.protocol.server_side")


MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "inference": ("inference",),  # the package itself: what it exports
    "inference.image": (),
    "inference.items": ("inference.model",),
    "inference.model": (),
    "inference.pictures": ("inference.model",),
    "inference.token_bucket": (),
    "inference.intake": ("inference.items", "inference.model"),
    "inference.streams": (
        "inference.intake",
        "inference.items",
        "inference.model",
        "inference.scheduling.statistics",
    ),
    "inference.scheduling": ("inference.items", "inference.model"),
    "inference.wire": ("inference.items", "inference.model"),
    "inference.pool": ("inference.items", "inference.model", "inference.token_bucket", "inference.wire"),
    "inference.worker": ("inference.image", "inference.items", "inference.model", "inference.wire"),
    "inference.naming": ("inference.model",),
    "inference.local": (
        "inference.model",
        "inference.naming",
        "inference.pictures",
        "inference.worker",  # the one place besides a worker process where it runs
    ),
    "inference.models": ("inference.image", "inference.model"),
    "inference.training": ("inference.items", "inference.model", "inference.models"),
    "inference.engine": (
        "inference.intake",
        "inference.items",
        "inference.model",
        "inference.pool",
        "inference.scheduling",
        "inference.streams",
    ),
    "stream_server": ("stream_server",),
    "stream_server.__main__": ("stream_server.cli",),
    "stream_server.errors": ("inference.items",),
    "stream_server.protocol": (
        "inference.items",
        "inference.model",
        "stream_server.errors",
    ),
    "stream_server.client": (
        "inference.model",
        "inference.pictures",
        "stream_server.errors",
        "stream_server.protocol",
    ),
    "stream_server.server": ("inference", "stream_server.errors", "stream_server.protocol"),
    "stream_server.recording": ("inference.model", "stream_server.errors", "stream_server.protocol"),
    "stream_server.cli": ("inference.model", "stream_server.commands", "stream_server.errors"),
    "stream_server.commands": ("inference", "stream_server"),
    "stream_server.commands.bench": ("benchmarks", "stream_server"),
    "benchmarks": ("benchmarks", "inference", "stream_server"),
    "benchmarks.report": ("benchmarks.failures", "inference.machine"),
    "benchmarks.load": ("benchmarks.failures", "benchmarks.report"),
    "benchmarks.peers": (
        "benchmarks.failures",
        "benchmarks.load",
        "benchmarks.report",
        "inference",
        "stream_server.client",
        "stream_server.errors",
        "stream_server.protocol",
    ),
}
"""What each folder or module may import of ours, besides what is in the same folder. The longest name counts."""


@pytest.mark.parametrize("name", NAMES)
def test_each_floor_imports_only_what_is_below(name: str) -> None:
    place = max((place for place in MAY_IMPORT if within(name, place)), key=len)
    ours = {imported for imported in imports(name) if imported.partition(".")[0] in PACKAGES}
    allowed = MAY_IMPORT[place] if place in ("inference", "stream_server") else (place, *MAY_IMPORT[place])
    assert not {imported for imported in ours if not within(imported, *allowed)}


COMMANDS = {
    name
    for name in NAMES
    if within(name, "stream_server.commands")
    and any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in MODULES[name].body)
}
"""The modules that are commands; what they share is in the others of their folder."""


@pytest.mark.parametrize("name", [name for name in NAMES if within(name, "stream_server.commands")])
def test_no_command_imports_another_one(name: str) -> None:
    assert len(COMMANDS) >= 7
    assert not imports(name) & (COMMANDS - {name})


PURE = (
    "benchmarks.load.accounts",
    "benchmarks.load.histograms",
    "benchmarks.report.results",
    "benchmarks.report.stats",
    "inference.intake",
    "inference.items",
    "inference.machine",
    "inference.model",
    "inference.pool.catalogue",
    "inference.pool.groups",
    "inference.pool.launcher",
    "inference.pool.options",
    "inference.pool.states",
    "inference.scheduling",
    "inference.streams",
    "inference.token_bucket",
    "inference.wire.features",
    "inference.wire.framing",
    "inference.wire.messages",
    "inference.naming",
    "stream_server.errors",
    "stream_server.protocol",
    "stream_server.recording.compare",
    "stream_server.server.allowance",
    "stream_server.server.config",
    "stream_server.server.config_file",
    "stream_server.server.connection_table",
    "stream_server.server.frames",
    "stream_server.server.origins",
    "stream_server.server.callers",
    "stream_server.server.session",
)
"""Folders and modules without I/O, loop and clock; they import of ours only each other."""


@pytest.mark.parametrize("name", [name for name in NAMES if within(name, *PURE)])
def test_pure_modules_have_no_loop_no_network_and_no_clock(name: str) -> None:
    forbidden = {"asyncio", "aiohttp", "websockets", "time", "datetime", "socket", "threading", "subprocess"}
    assert not roots(name) & forbidden
    for imported in imports(name) & set(MODULES):
        assert within(imported, *PURE)


WHO_MAY = {
    "asyncio": (
        "benchmarks.engine",
        "benchmarks.load",
        "benchmarks.peers",
        "benchmarks.scenarios",
        "inference.engine",
        "inference.pool",
        "inference.wire.socket_transport",
        "stream_server.client",
        "stream_server.commands",
        "stream_server.server",
    ),
    "aiohttp": ("benchmarks.load", "benchmarks.peers", "stream_server.server"),
    "uvloop": ("stream_server.commands.serve",),
    "websockets": ("benchmarks.engine", "benchmarks.peers", "stream_server.client"),
    "cv2": (
        "benchmarks.peers",
        "benchmarks.scenarios",
        "inference.models",
        "inference.pictures",  # in a function
        "inference.training",
        "inference.worker",
        "stream_server.commands",
    ),
    "simplejpeg": ("inference.worker", "stream_server.commands"),
    "onnxruntime": ("inference.models", "inference.training"),
    "sklearn": ("inference.training",),
    "skl2onnx": ("inference.training",),
    "multiprocessing": (),
    "concurrent": ("benchmarks.peers", "stream_server.client"),
}
"""Libraries, and the only places that may import them: the two websocket libraries each on their own side, so that
every end-to-end test has two implementations meet; image and model libraries never where the loop runs."""


@pytest.mark.parametrize("name", NAMES)
def test_libraries_are_imported_only_where_they_belong(name: str) -> None:
    strangers = {library for library in roots(name) & set(WHO_MAY) if not within(name, *WHO_MAY[library])}
    assert not strangers


def test_there_are_no_import_cycles() -> None:
    graph = {name: {i for i in imports(name) if i in MODULES and i != name} for name in NAMES}
    TopologicalSorter(graph).prepare()


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a module, with the dotted name of what is called."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_arrives_can_become_code(name: str) -> None:
    forbidden = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
    assert not roots(name) & forbidden
    for called, call in calls(name):
        assert called not in ("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec")
        assert called not in ("os.system", "os.popen")
        for keyword in call.keywords:
            switched_on = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            assert not (keyword.arg in ("shell", "allow_pickle") and switched_on)


@pytest.mark.parametrize("name", NAMES)
def test_arrays_are_read_without_pickle_in_so_many_words(name: str) -> None:
    for called, call in calls(name):
        if called in ("np.load", "numpy.load"):
            assert any(keyword.arg == "allow_pickle" for keyword in call.keywords)


@pytest.mark.parametrize("name", NAMES)
def test_logs_take_arguments(name: str) -> None:
    for called, call in calls(name):
        if re.fullmatch(r"(log|logger|logging)\.(debug|info|warning|error|exception|critical|log)", called):
            text = call.args[1 if called.endswith(".log") else 0]
            assert isinstance(text, ast.Constant), ast.unparse(call)


@pytest.mark.parametrize("name", NAMES)
def test_names_say_what_is_inside(name: str) -> None:
    assert not set(name.split(".")) & {"utils", "util", "helpers", "helper", "common", "misc", "base"}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_module_offers_is_sorted_and_there(name: str) -> None:
    for node in MODULES[name].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            offered = ast.literal_eval(node.value)
            assert offered == sorted(set(offered))
            module = importlib.import_module(name)
            assert all(hasattr(module, one) for one in offered)


def test_a_package_offers_what_it_says_and_nothing_by_accident() -> None:
    package = importlib.import_module("stream_server")
    assert package.__all__
    with pytest.raises(AttributeError):
        package.nothing_of_that_name  # noqa: B018


ALONE = """
import importlib, sys
for name in sys.argv[1:]:
    for loaded in [m for m in sys.modules if m.partition(".")[0] in ("inference", "stream_server", "benchmarks")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except BaseException as exc:
        print(f"{name}: {exc!r}")
"""


ELSEWHERE = {
    f"benchmarks.peers.{name}"
    for name in (
        "bentoml_service",
        "fastapi_pool",
        "litserve_api",
        "mlserver_runtime",
        "mosec_worker",
        "ray_deployment",
    )
}
"""What imports packages that only environments of their own have."""


def test_every_module_can_be_imported_first() -> None:
    """Whichever is imported first, none relies on another one having been imported before, and none warns."""
    assert set(NAMES) >= ELSEWHERE
    # the one runs the command line, the others run elsewhere
    names = [name for name in NAMES if name not in {"stream_server.__main__", *ELSEWHERE}]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE, *names],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
