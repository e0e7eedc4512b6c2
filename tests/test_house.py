"""The house rules that a reviewer would otherwise have to remember, checked on the source itself."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from daemon import commands
from trainer import commands as trainer_verbs

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DAEMON = sorted((CHECKOUT / "daemon").rglob("*.py"))
TRAINER = sorted((CHECKOUT / "trainer").rglob("*.py"))
SOURCES = [*DAEMON, *TRAINER]
TESTS = sorted((CHECKOUT / "tests").glob("*.py"))

# Each of these has one owner in the daemon, a module or a package; None means that nobody may.
OWNERS = {
    "watchdog": "effects/watch",
    "sqlite3": "core/database",
    "mutagen": "effects/tags/",
    "shutil": "effects/files/",
    "ctypes": "effects/files/",
    "onnxruntime": "core/inference",
    "av": "core/audio",
    "socket": "effects/notify",
    "yaml": "core/config_file",
    "subprocess": "effects/child",
    "urllib": "effects/fetch",
    "http": "effects/fetch",
    "ssl": "effects/fetch",
    "multiprocessing": None,
}
HEAVY = {"torch", "torchaudio", "transformers", "onnx", "onnxscript", "sklearn", "trainer"}
UNPICKLERS = {"cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
NAMELESS = {"utils", "util", "helpers", "helper", "manager", "base", "misc", "common"}
SLEEPS = {"sleep", "time.sleep"}


def name_of(source: Path) -> str:
    return source.relative_to(CHECKOUT).as_posix()


def place_of(source: Path, node: ast.expr | ast.stmt) -> str:
    return f"{name_of(source)}:{node.lineno}"


@functools.cache
def tree_of(source: Path) -> ast.Module:
    return ast.parse(source.read_text(encoding="utf-8"), str(source))


def imported_by(source: Path) -> set[str]:
    """The top-level names of everything that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def calls_in(source: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a module with the dotted name of what is called, as far as it has one."""
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a call gives for a keyword; None where it gives none."""
    values = [word.value for word in call.keywords if word.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def finished(*command: str | Path) -> str:
    """What a program prints that ends well."""
    done = subprocess.run([str(part) for part in command], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Linters


@pytest.mark.slow
def test_the_floors_hold() -> None:
    finished(Path(sysconfig.get_path("scripts")) / "lint-imports", "--no-cache")


@pytest.mark.slow
def test_ruff_finds_nothing() -> None:
    finished(sys.executable, "-m", "ruff", "check", "--no-cache", ".")


@pytest.mark.slow
def test_the_source_is_formatted() -> None:
    finished(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".")


@pytest.mark.slow
def test_every_type_is_right() -> None:
    finished(sys.executable, "-m", "mypy", "--strict")


# Owners


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_one_owner(library: str) -> None:
    users = {source.relative_to(CHECKOUT / "daemon").as_posix() for source in DAEMON if library in imported_by(source)}
    owner = OWNERS[library]
    if owner is None:
        assert users == set()
    else:
        assert users, f"nobody imports {library}: is the owner still {owner}?"
        assert all(user.startswith(owner) for user in users), users


def test_the_daemon_is_light() -> None:
    assert [name_of(source) for source in DAEMON if imported_by(source) & HEAVY] == []


def test_nothing_is_unpickled() -> None:
    """The error that torch.load raises at a bad checkpoint may be caught; that is all that pickle is for here."""
    found = [name_of(source) for source in SOURCES if imported_by(source) & UNPICKLERS]
    for source in SOURCES:
        for node in ast.walk(tree_of(source)):
            used = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
            if used and node.attr != "UnpicklingError":
                found.append(place_of(source, node))
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                found.append(place_of(source, node))
        for name, call in calls_in(source):
            if keyword(call, "allow_pickle") is True:
                found.append(place_of(source, call))
            if name == "torch.load" and keyword(call, "weights_only") is not True:
                found.append(place_of(source, call))
    assert found == []


def test_nothing_foreign_is_evaluated() -> None:
    banned = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
    banned |= {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}
    calls = [(source, *call) for source in SOURCES for call in calls_in(source)]
    assert [place_of(source, call) for source, name, call in calls if name in banned] == []


PROBE = """
import importlib, json, logging, pkgutil, sys, threading
import structlog
import daemon

for module in pkgutil.walk_packages(daemon.__path__, "daemon."):
    importlib.import_module(module.name)
print(json.dumps({
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
    "threads": threading.active_count(),
    "handlers": len(logging.getLogger().handlers),
    "configured": structlog.is_configured(),
    "commands": sorted(sys.modules["daemon.commands"].program.commands),
}))
"""


def test_importing_the_daemon_loads_nothing_heavy_and_does_nothing(tmp_path: Path) -> None:
    before = set(os.listdir(CHECKOUT))
    output = finished(sys.executable, "-c", PROBE)
    seen = json.loads(output)
    assert set(seen["modules"]) & HEAVY == set()
    assert {"onnxruntime", "av", "watchdog", "daemon"} <= set(seen["modules"])
    assert (seen["threads"], seen["handlers"], seen["configured"]) == (1, 0, False)
    assert "run" in seen["commands"]
    assert {name for name in set(os.listdir(CHECKOUT)) - before if not name.startswith(".")} == set()


# Shape


def test_a_module_says_what_it_owns() -> None:
    trees = {name_of(source): tree_of(source) for source in SOURCES}
    assert [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {name_of(source): len(source.read_text(encoding="utf-8").splitlines()) for source in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    too_long = {}
    for source in SOURCES:
        for node in ast.walk(tree_of(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    too_long[f"{place_of(source, node)} {node.name}"] = length
    assert too_long == {}


def test_a_module_is_named_for_what_is_in_it() -> None:
    assert [name_of(source) for source in SOURCES if {source.stem, source.parent.name} & NAMELESS] == []


def test_no_test_sleeps_and_hopes() -> None:
    """A sleep is only ever the pause of a loop that looks again."""
    hopeful = []
    for source in TESTS:
        nodes = list(ast.walk(tree_of(source)))
        loops = [node for node in nodes if isinstance(node, (ast.While, ast.For))]
        paused = {id(node) for loop in loops for node in ast.walk(loop)}
        sleeps = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in SLEEPS]
        hopeful += [place_of(source, node) for node in sleeps if id(node) not in paused]
    assert hopeful == []


def test_nothing_hides_the_import_names() -> None:
    """A folder tests/daemon, or a package called systemd, would come before the real one on some paths."""
    assert not (CHECKOUT / "tests" / "daemon").exists()
    assert not (CHECKOUT / "tests" / "__init__.py").exists()
    assert not (CHECKOUT / "systemd" / "__init__.py").exists()


@pytest.mark.parametrize("name", ["daemon", "trainer"])
def test_no_other_distribution_owns_the_import_names(name: str) -> None:
    owners = importlib.metadata.packages_distributions().get(name, [])
    assert set(owners) <= {PROJECT["name"]}


# What the owner sees


def test_the_changelog_knows_this_version() -> None:
    headings = [
        line for line in (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line[:2] == "##"
    ]
    assert headings[0].split()[1] == PROJECT["version"]


def test_the_scripts_lead_somewhere() -> None:
    for target in PROJECT["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def verbs_of(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs_of(command, (*words, name))
        else:
            yield (*words, name)


def help_of(program: click.Group, words: tuple[str, ...]) -> str:
    result = CliRunner().invoke(program, [*words, "--help"], obj=lambda config: None)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("words", list(verbs_of(commands.program)), ids=" ".join)
def test_every_verb_shows_an_example(words: tuple[str, ...]) -> None:
    text = help_of(commands.program, words)
    assert "Example" in text
    assert f"music-reclass {' '.join(words)}" in text.split("Example", 1)[1]


@pytest.mark.parametrize("words", list(verbs_of(trainer_verbs.program)), ids=" ".join)
def test_every_verb_of_the_trainer_shows_an_example(words: tuple[str, ...]) -> None:
    text = help_of(trainer_verbs.program, words)
    assert "Example" in text
    assert f"music-reclass-train {' '.join(words)}" in text.split("Example", 1)[1]


def test_the_program_itself_helps() -> None:
    text = finished(sys.executable, "-m", "daemon", "--help")
    assert "music-reclass run" in text
    for words in verbs_of(commands.program):
        assert words[0] in text
