"""Tracks per second of `classify`, where its time goes, and the same tracks through transformers' own pipeline.

    MUSIC_RECLASS_DATA=… .ci/uv run --extra trainer --group dev python tests/bench/classify.py

Ours is timed as an owner meets it (one `music-reclass classify --json` process, start-up included) and from inside
(decode, infer, rest). The peer is transformers' audio-classification pipeline with an AST of base size; random weights
cost the same time as trained ones. It decodes through the ffmpeg program and hears the first 10.24 s of each track,
ours hears every segment that the starter asks for.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from daemon.core import bundle, config
from daemon.core.inference import Ensemble
from daemon.effects.models import STARTER
from daemon.pipeline import Judge
from daemon.reading import Reader


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=100, help="how many real tracks (default 100)")
    parser.add_argument("--peer-tracks", type=int, default=20, help="how many of them for the peer (default 20)")
    arguments = parser.parse_args()
    tracks = real_tracks(arguments.tracks)
    whole_s = time_command(tracks)
    inside = time_inside(tracks)
    peer_s, peer_all_s = time_peer(tracks[: arguments.peer_tracks])
    report(tracks, whole_s, inside, peer_s, peer_all_s, arguments.peer_tracks)


def real_tracks(count: int) -> list[Path]:
    """`count` of the labelled tracks, evenly over the list."""
    folder = os.environ.get("MUSIC_RECLASS_DATA")
    if not folder:
        sys.exit("set MUSIC_RECLASS_DATA to the folder with tracks.csv")
    with open(Path(folder) / "tracks.csv", newline="") as file:
        paths = [Path(folder) / row["path"] for row in csv.DictReader(file)]
    step = len(paths) / count
    return [paths[int(step * number)] for number in range(min(count, len(paths)))]


def time_command(tracks: list[Path]) -> float:
    """Wall seconds of one whole `classify` process."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "daemon", "classify", "--json", *map(str, tracks)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    took_s = time.perf_counter() - started
    assert len([json.loads(line) for line in printed.splitlines()]) == len(tracks)
    return took_s


def time_inside(tracks: list[Path]) -> dict[str, float]:
    """Wall seconds inside one process: start (bundle checked and opened), decode, infer, rest."""
    started = time.perf_counter()
    settings = config.default()
    with Reader() as reader:
        judge = Judge(settings, Ensemble(bundle.load(STARTER)), settings.build_taxonomy(), reader)
        start_s = time.perf_counter() - started
        decode_s = infer_s = 0.0
        started = time.perf_counter()
        for track in tracks:
            heard = judge.hear(track).heard
            decode_s += heard.decode_s
            infer_s += heard.infer_s
        total_s = time.perf_counter() - started
    rest_s = total_s - decode_s - infer_s
    return {"start": start_s, "decode": decode_s, "infer": infer_s, "rest": rest_s, "total": total_s}


def time_peer(tracks: list[Path]) -> tuple[float, float]:
    """Wall seconds of transformers' pipeline over `tracks`, without and with making it."""
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, pipeline

    torch.manual_seed(0)
    began = time.perf_counter()
    model = ASTForAudioClassification(ASTConfig(num_labels=5)).eval()
    classifier = pipeline("audio-classification", model=model, feature_extractor=ASTFeatureExtractor(), device="cpu")
    started = time.perf_counter()
    for track in tracks:
        classifier(str(track))
    ended = time.perf_counter()
    return ended - started, ended - began


def report(
    tracks: list[Path], whole_s: float, inside: dict[str, float], peer_s: float, peer_all_s: float, peer_tracks: int
) -> None:
    """Print what was measured, with ratios: seconds differ from machine to machine."""
    count = len(tracks)
    ours, peer = count / inside["total"], peer_tracks / peer_s
    table = Table(title=f"{count} tracks of 30 s, {os.cpu_count()} cores")
    for column in ("what", "tracks/s", "ms a track", "share"):
        table.add_column(column, justify="left" if column == "what" else "right")
    table.add_row("classify, whole process", f"{count / whole_s:.1f}", f"{1000 * whole_s / count:.1f}", "")
    table.add_row("classify, inside", f"{ours:.1f}", f"{1000 * inside['total'] / count:.1f}", "100 %")
    for part in ("decode", "infer", "rest"):
        share = inside[part] / inside["total"]
        table.add_row(f"  {part}", "", f"{1000 * inside[part] / count:.1f}", f"{share:.0%}")
    table.add_row(f"transformers pipeline, AST base ({peer_tracks})", f"{peer:.2f}", f"{1000 / peer:.0f}", "")
    console = Console(width=100)
    console.print(table)
    console.print(f"start-up of ours (check, open, golden replay): {inside['start']:.2f} s")
    console.print(
        f"ours / AST pipeline: {ours / peer:.1f} times (whole processes: "
        f"{(count / whole_s) / (peer_tracks / peer_all_s):.1f} times)"
    )


if __name__ == "__main__":
    main()
