"""The rules of the house, held: import directions, params.yaml, the README's commands, the size of files."""

import ast
import dataclasses
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import datamodules
import modules
import services
from datamodules.types import BadInputError
from services.settings import load_params
from services.shell.cli import app, run
from services.shell.params_command import dataclass_of

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LONGEST = 420
"""Lines: about 400, which is where a file is two ideas."""
IMPORTERS = {
    "MLflow": ("services/registry",),
    "BentoML": ("services/serving/api.py",),
    "Lightning": (
        "modules/lit", "datamodules", "services/training/trainer.py", "services/training/checkpoints.py",
        "services/stages/restorers.py", "services/registry/curves.py",
    ),
}  # fmt: skip
"""The frameworks that have their places, and these places: folders or files."""
SECTIONS = sorted(yaml.safe_load((ROOT / "params.yaml").read_text()))
TRACKED = subprocess.run(
    ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
).stdout.split("\0")[:-1]


def text_of(name: str) -> str | None:
    """A tracked file as text; None for binary files and for those that were just removed."""
    path = ROOT / name
    if not path.is_file():
        return None
    data = path.read_bytes()
    return None if b"\0" in data else data.decode("utf-8", errors="replace")


def test_import_directions_hold() -> None:
    done = subprocess.run([BIN / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_modules_are_kept_from_all_of_datamodules_but_its_types() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (forbidden,) = (one["forbidden_modules"] for one in contracts if one["type"] == "forbidden")
    files = {f"datamodules.{path.stem}" for path in (ROOT / "datamodules").glob("*.py")}
    assert set(forbidden) == files - {"datamodules.types", "datamodules.__init__"}


def test_every_room_of_services_has_its_place() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    placed = {
        name.strip()
        for one in contracts
        if one["type"] == "layers"
        for row in one["layers"]
        for name in row.split("|")
    }
    rooms = {f"services.{path.parent.name}" for path in (ROOT / "services").glob("*/__init__.py")}
    assert rooms <= placed


def packages_imported(tree: ast.AST) -> Iterator[str]:
    """Packages that code imports when it runs, also inside functions; under TYPE_CHECKING nothing is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from packages_imported(ast.Module([other], []))
        else:
            yield from packages_imported(node)


def test_imports_are_found_wherever_they_stand() -> None:
    code = """
if TYPE_CHECKING:
    import lightning as L
else:
    import bentoml
def late():
    with suppress(ImportError):
        from mlflow.pyfunc import model
from . import torch
"""
    assert set(packages_imported(ast.parse(code))) == {"bentoml", "mlflow"}


@pytest.mark.parametrize("framework", IMPORTERS)
def test_a_framework_is_imported_where_contributing_says(framework: str) -> None:
    places = IMPORTERS[framework]
    for name in TRACKED:
        if name.startswith(("modules/", "datamodules/", "services/", "benchmarks/")) and name.endswith(".py"):
            if any(name == place or name.startswith(f"{place}/") for place in places):
                continue
            found = set(packages_imported(ast.parse(text_of(name) or "")))
            assert not found & {framework.lower(), f"pytorch_{framework.lower()}"}, f"{name} imports {framework}"
    (said,) = (part for part in (ROOT / "CONTRIBUTING.md").read_text().split("\n\n") if "imports MLflow" in part)
    assert framework in said and {f"`{place}`" for place in places} <= set(re.findall(r"`[^`]+`", said))


def test_ruff_finds_nothing() -> None:
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([BIN / "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def sections_read() -> dict[str, set[str]]:
    """Section of params.yaml to the names of the dataclasses that the code builds it as."""
    found: dict[str, set[str]] = {}
    for package in (datamodules, modules, services):
        for path in Path(next(iter(package.__path__))).rglob("*.py"):
            for name, kind in re.findall(r'section\(\s*"(\w+)",\s*(\w+)\s*,?\s*\)', path.read_text()):
                found.setdefault(name, set()).add(kind)
    return found | {"data": {"DataSettings"}, "runtime": {"Runtime"}}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_is_read_as_the_frozen_dataclass_that_params_explains(section: str) -> None:
    kind = dataclass_of(section)
    assert sections_read().get(section) == {kind.__name__}
    built = load_params(environment={}).section(section, kind)
    assert dataclasses.is_dataclass(built)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(built, dataclasses.fields(built)[0].name, None)


def test_no_section_is_read_that_is_not_there() -> None:
    assert set(sections_read()) <= set(SECTIONS)


def commands_of(text: str) -> list[list[str]]:
    """The words of each ``stylereel`` command in code spans and blocks."""
    code = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    lines = [part.strip() for block in code for line in block.split("\n") for part in line.split("&&")]
    words = [shlex.split(line, comments=True) for line in lines if "stylereel " in line]
    stripped = [w[1:] if w and "=" in w[0] else w for w in words]
    return [w[1:] for w in stripped if w and w[0] == "stylereel"]


PAGES = (
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/http.md", "docs/operations.md", "docs/results.md",
    "docs/decisions.md",
)  # fmt: skip
COMMANDS = [(page, words) for page in PAGES for words in commands_of((ROOT / page).read_text())]


def test_readme_names_every_command() -> None:
    named = {words[0] for page, words in COMMANDS if page == "README.md"}
    assert named == set(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_commands_and_options_on_the_pages_exist(page: str, words: list[str]) -> None:
    command = get_command(app)
    known = {"--version"}
    rest = list(words)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{page}: stylereel {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    for parameter in command.params:
        known |= set(parameter.opts)
    for word in rest:
        if word.startswith("-"):
            assert word.split("=")[0] in known, f"{page}: {word} of stylereel {' '.join(words)}"


@pytest.mark.parametrize("name", ["", *sorted(get_command(app).commands)])  # type: ignore[attr-defined]
def test_help_explains_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*([name] if name else []), "--help"]) == 0
    assert capsys.readouterr().out.strip()
    command = get_command(app).commands[name] if name else get_command(app)  # type: ignore[attr-defined]
    assert len((command.help or "").split()) >= 5, "say what it does"
    for parameter in command.params:
        if parameter.name not in ("install_completion", "show_completion"):
            assert len((getattr(parameter, "help", None) or "").split()) >= 2, parameter.name


@pytest.mark.parametrize("page", PAGES)
def test_files_on_the_pages_exist(page: str) -> None:
    folders = "benchmarks|tests|docs|datamodules|modules|services"
    for target in re.findall(rf"\b(?:{folders})/[\w/.-]+\.(?:py|md|svg|jpg|png)\b", (ROOT / page).read_text()):
        assert (ROOT / target).exists(), f"{page}: {target}"


def test_makefile_has_the_two_commands() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo:", makefile, re.MULTILINE) and re.search(r"^test:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_the_paths_on_the_pages_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_no_path_of_this_machine_and_no_registry_host_is_tracked() -> None:
    machine = re.compile(r"/(?:work|root|home)/\w|/Users/\w")
    host = re.compile(r"(?:index-url|extra-index|registry)\s*[= ]\s*[\"']?https?://", re.IGNORECASE)
    for name in TRACKED:
        text = text_of(name)
        if text is not None and name != "tests/test_house.py":
            for number, line in enumerate(text.splitlines(), 1):
                assert not machine.search(line), f"{name}:{number}: {line[:120]}"
                assert not host.search(line), f"{name}:{number}: {line[:120]}"


def test_one_idea_per_file() -> None:
    for name in TRACKED:
        if name.startswith(("modules/", "datamodules/", "services/")) and name.endswith(".py"):
            lines = (text_of(name) or "").count("\n")
            assert lines <= LONGEST, f"{name} has {lines} lines: it is two ideas"
            assert not re.search(r"util|helper|manager|misc|common", Path(name).stem), name


def test_shortcuts_that_are_not_taken() -> None:
    never = {
        # A message may name the call that a user makes at their own risk; code may not make it.
        "a pickle is executed": re.compile(r"\bpickle\.loads?\(|^[^\"'\n]*allow_pickle=True", re.MULTILINE),
        "torch.load executes": re.compile(r"torch\.load\((?![^)]*weights_only=True)"),
        "a shell is started": re.compile(r"shell=True|os\.system\("),
        "left for later": re.compile(r"\b(?:TODO|FIXME|XXX)\b"),
        "an exception is swallowed": re.compile(r"except[^\n]*:\n\s+pass\b"),
    }
    for name in TRACKED:
        if name.startswith(("modules/", "datamodules/", "services/", "benchmarks/")) and name.endswith(".py"):
            text = text_of(name) or ""
            for what, pattern in never.items():
                assert not pattern.search(text), f"{name}: {what}"


def test_a_misspelt_key_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"demo\.colums"):
        params = load_params(environment={})
        raw = {**params.raw, "demo": {**params.raw["demo"], "colums": 3}}
        dataclasses.replace(params, raw=raw).section("demo", dataclass_of("demo"))
