"""Calls `music-reclass` in this process, on a scratch library with the bundle of tones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from make_bundle import make_bundle

from daemon import __main__ as door


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict]:
        """The lines of its output, each a JSON object."""
        return [json.loads(line) for line in self.out.splitlines()]


Command = Callable[..., Result]


def write_settings(folder: Path, mode: str = "apply", more: str = "") -> None:
    """Configure the library in `folder`: its music, state, bundle and models lie there."""
    (folder / "config.yaml").write_text(
        f"roots: [{{mode: {mode}, path: {folder}/music}}]\nstate_directory: {folder}/state\n"
        f"models: {{bundle: {folder}/bundle, directory: {folder}/models}}\n{more}"
    )


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """The watched folder of a new library."""
    (tmp_path / "music").mkdir()
    make_bundle(tmp_path / "bundle")
    write_settings(tmp_path)
    return tmp_path / "music"


@pytest.fixture
def command(music: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Calls a command on that library, or with another config."""

    def call(*arguments: str | Path, config: Path | None = None) -> Result:
        chosen = config or music.parent / "config.yaml"
        monkeypatch.setattr(sys, "argv", ["music-reclass", "--config", str(chosen), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            door.main()
        printed = capsys.readouterr()
        return Result(int(end.value.code or 0), printed.out, printed.err)

    return call
