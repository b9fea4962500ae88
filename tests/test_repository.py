"""The promises of the repository: everything pinned, no torchvision, data in the wheel, floors that hold, a light help.

The package is looked at as pip, import-linter and a shell see it, so each of these tests runs the real thing.
"""

import importlib.metadata
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fromnoise

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

# torch pins these to itself, and only some of its builds have them.
OF_TORCH = re.compile(r"^(nvidia-|cuda-|triton$|pytorch-triton)")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def declared(extra: str | None = None) -> Iterator[Requirement]:
    """The core's requirements, or an extra's with those of the extras that it names."""
    for line in PROJECT["dependencies"] if extra is None else EXTRAS[extra]:
        requirement = Requirement(line)
        if requirement.name == "fromnoise":
            for inner in requirement.extras:
                yield from declared(inner)
        else:
            yield requirement


def needed(roots: Iterator[Requirement]) -> dict[str, set[str]]:
    """Everything that the roots bring into this environment: name → who asks for it."""
    found: dict[str, set[str]] = {}
    waiting = [(requirement, "fromnoise") for requirement in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement, parent = waiting.pop()
        name = canonicalize_name(requirement.name)
        found.setdefault(name, set()).add(parent)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # asked for, yet not installed: the name is in the answer, and that is what is judged
        for line in lines:
            inner = Requirement(line)
            environments = [{**default_environment(), "extra": extra} for extra in {"", *requirement.extras}]
            if inner.marker is None or any(inner.marker.evaluate(environment) for environment in environments):
                waiting.append((inner, name))
    return found


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


# ------------------------------------------------------------------------------------------------ versions and pins


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_every_declared_dependency_is_pinned_within_its_range(extra: str | None) -> None:
    pinned = pins()
    for requirement in declared(extra):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} has no pin in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} does not admit the pin {pinned[name]}"


def test_what_the_dependencies_bring_along_is_pinned_too() -> None:
    missing = {name for name in needed(declared("dev")) | needed(declared()) if not OF_TORCH.match(name)} - set(pins())
    assert not missing, f"not in constraints.txt: {sorted(missing)}"


def test_pins_name_one_release_and_no_build_of_it() -> None:
    assert pins()["torch"] == "2.13.0"
    builds = {name: version for name, version in pins().items() if "+" in version}
    assert not builds, f"a local version keeps other machines from installing: {builds}"
    assert not [name for name in pins() if OF_TORCH.match(name)], "CUDA's packages are torch's to pin"


def test_nothing_needs_torchvision() -> None:
    asked = needed(declared("dev")) | needed(declared())
    assert "torch" in asked  # the walk did walk
    assert "mpmath" in asked  # and not only the first step: torch → sympy → mpmath
    assert "torchvision" not in asked, f"torchvision is asked for by {sorted(asked['torchvision'])}"


def test_one_version_everywhere() -> None:
    assert fromnoise.__version__ == PROJECT["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or f"## [{PROJECT['version']}]" in changelog


# --------------------------------------------------------------------------------------------------------- the wheel


def test_the_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        entry_points = archive.read(f"fromnoise-{PROJECT['version']}.dist-info/entry_points.txt").decode()
    source = ROOT / "src"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name and not name.endswith(".pyc")}
    assert expected == {name for name in packed if name.startswith("fromnoise/")}
    assert {"fromnoise/py.typed", "fromnoise/data/digits.npz", "fromnoise/presets/digits.toml"} <= packed
    licences = {f"fromnoise-{PROJECT['version']}.dist-info/licenses/{name}" for name in ("LICENSE", "NOTICE")}
    assert licences <= packed
    assert "fromnoise = fromnoise.cli:main" in entry_points


@pytest.mark.parametrize("preset", ["digits", "cifar10", "lsun256", "celebahq256", "page"])
def test_presets_are_found_beside_the_code_and_are_toml(preset: str) -> None:
    text = (importlib.resources.files(fromnoise) / "presets" / f"{preset}.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["network"]


# --------------------------------------------------------------------------------------------------------- the floors


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, 'src'); {code}"],
        cwd=root,
        env={**os.environ, "COLUMNS": "200"},  # a contract and its verdict on one line
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the package, to break."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_import_contracts_hold(house: Path) -> None:
    result = lint_imports(house)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("room", "line", "contract"),
    [
        ("denoiser", "from fromnoise import objective", "Imports point downwards only"),
        ("network/unet", "from fromnoise.schedule import base", "Imports point downwards only"),
        ("noise", "from fromnoise import gaussian", "Imports point downwards only"),
        ("config", "from fromnoise import run", "Imports point downwards only"),
        ("ddpm", "from fromnoise import config", "Imports point downwards only"),
        ("attic", "from fromnoise import errors", "Imports point downwards only"),  # a room without a floor
        ("sampler/ancestral", "from fromnoise.network.unet import UNet", "Samplers know no network"),
        ("sampler/ancestral", "from fromnoise.schedule.discrete import Discrete", "Samplers know no network"),
        ("run", "def late():\n    from fromnoise import ddpm", "The paper's vocabulary is a face"),
        ("gaussian", "import pydantic", "Floors 1 to 6 need"),
        ("run", "def late():\n    import torchvision.transforms", "No torchvision"),
        ("pipeline", "import diffusers", "diffusers is spoken in one room"),
    ],
)
def test_a_wrong_import_breaks_its_contract(house: Path, room: str, line: str, contract: str) -> None:
    file = house / "src" / "fromnoise" / f"{room}.py"
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")
    result = lint_imports(house)
    assert result.returncode == 1, result.stdout + result.stderr
    broken = [shown for shown in result.stdout.splitlines() if " BROKEN" in shown]
    assert any(shown.startswith(contract) for shown in broken), result.stdout


# ------------------------------------------------------------------------------------------------- what is imported


def test_the_library_imports_whole_without_the_tests_packages() -> None:
    """Every module, with torchvision and the tests' oracles made impossible to import: nothing even tries."""
    code = """
import sys, importlib, pkgutil
banned = {"torchvision", "torchaudio", "diffusers", "transformers", "scipy", "sklearn", "skimage"}
tried = []
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in banned:
            tried.append(name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
import torch
sys.meta_path.insert(0, Guard())
import fromnoise
names = [module.name for module in pkgutil.walk_packages(fromnoise.__path__, "fromnoise.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
assert "fromnoise.cli" in names and "fromnoise.network.unet" in names, names
print(tried)
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["train", "--help"], ["sample", "--help"]])
def test_help_imports_no_torch(arguments: list[str]) -> None:
    code = f"import sys; sys.argv = ['fromnoise', *{arguments}]; from fromnoise.cli import main; sys.exit(main())"
    result = python(code, "-X", "importtime")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "usage" in result.stdout.lower()
    assert (arguments[0] if len(arguments) > 1 else "train") in result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "fromnoise" in imported  # the listing was read
    assert not imported & {"torch", "matplotlib", "diffusers", "scipy"}


# ------------------------------------------------------------------------------------------------------ the commands


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    command = script[-1]
    assert command == "make test"
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_make_offers_its_targets_and_lists_them_by_default() -> None:
    result = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    listed = {line.split()[1] for line in result.stdout.splitlines() if line.strip().startswith("make ")}
    assert {"setup", "demo", "test", "lint", "bench", "help"} <= listed
