"""Evaluation hears and decides as the daemon does, keeps what it heard, and joins folds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from make_audio import encode
from make_bundle import TONES_HZ, make_bundle, make_track

from daemon.core import bundle, config
from daemon.core.config import Thresholds
from daemon.core.decide import Rule
from daemon.core.errors import BadFile, ConfigError, FileTrouble
from daemon.core.inference import Ensemble
from daemon.core.records import Abstention, Device
from daemon.core.taxonomy import Genre, Taxonomy
from daemon.pipeline import Judge
from daemon.reading import Reader
from trainer.judging.evaluate import ARRAYS, FACTS, Evaluation, Hearing, evaluate, join
from trainer.tracks.manifest import LeftOut, Split, Track
from trainer.writing import write_whole

MERGED = """
taxonomy:
  - name: Old music
    aliases: [classical, jazz]
  - name: Rock
    threshold: 0.9
models:
  segments: 2
  device: cpu
  threads: 1
"""


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> list[Track]:
    """Two clear tracks of each tone and one that is half jazz, half rock."""
    folder = tmp_path_factory.mktemp("tracks")
    made = [
        Track(make_track(folder / f"{label}{number}.flac", label), label, fold=number, artist=f"{label} {number}")
        for label in TONES_HZ
        for number in range(2)
    ]
    unsure = make_track(folder / "unsure.flac", "jazz", mixed_with="rock")
    return [*made, Track(unsure, "jazz", fold=1, split=Split.HOLDOUT, album="Half", duration_s=6.0)]


@pytest.fixture(scope="module")
def judged(tone_bundle: Path, tracks: list[Track]) -> Evaluation:
    """The tracks as the bundle of tones hears them."""
    return evaluate(tone_bundle, tracks, threads=1, device=Device.CPU)


def hearing(path: str, genre: str, logits: Sequence[Sequence[float]], rule: int = 0, **about: int | str) -> Hearing:
    """A track that was heard with these logits."""
    starts_s = tuple(float(number) for number in range(len(logits)))
    array = np.array(logits, np.float32).reshape(len(logits), 3)
    return Hearing(Track(Path(path), genre, **about), rule, starts_s, array, 0.0, 0.0)  # type: ignore[arg-type]


def rule(name: str = "made-1", temperature: float = 1.0, **genres: str | None) -> Rule:
    """A rule of three labels."""
    mapping = {"a": "a", "b": "b", "c": "c"} | genres
    return Rule(name, ("a", "b", "c"), mapping, temperature, {genre: 0.6 for genre in mapping.values() if genre})


@pytest.mark.parametrize("text", ["", MERGED], ids=["defaults", "merged labels"])
def test_every_decision_is_the_daemons(tone_bundle: Path, tracks: list[Track], reader: Reader, text: str) -> None:
    owner = config.parse(text, "config.yaml")
    ensemble = Ensemble(bundle.load(tone_bundle), device=Device.CPU, threads=1)
    judge = Judge(owner, ensemble, owner.build_taxonomy(), reader)
    served = [judge.hear(track.path) for track in tracks]
    judged = evaluate(tone_bundle, tracks, owner, threads=1, device=Device.CPU)
    assert list(judged.decisions) == [one.decision for one in served]
    for ours, theirs in zip(judged.heard, served, strict=True):
        assert np.array_equal(ours.logits, theirs.heard.logits)
        assert ours.starts_s == tuple(window.start_s for window in theirs.heard.windows)


TAXONOMIES = [
    [Genre("Classical"), Genre("jazz", threshold=0.0), Genre("Rock", ("rocks",), threshold=0.95)],
    [Genre("Everything", ("classical", "jazz", "rock"))],
    [Genre("Old", ("classical", "JAZZ")), Genre("New")],
]


@pytest.mark.parametrize("genres", TAXONOMIES)
@pytest.mark.parametrize("default", ["auto", 0.0, 0.8])
def test_the_rule_is_the_daemons(
    tone_bundle: Path, tracks: list[Track], genres: list[Genre], default: str | float
) -> None:
    taxonomy, thresholds = Taxonomy(genres), Thresholds(default=default)  # type: ignore[arg-type]
    entries = tuple(config.GenreEntry(name=one.name, aliases=one.aliases, threshold=one.threshold) for one in genres)
    owners = config.Config(taxonomy=entries, thresholds=thresholds)
    found = evaluate(tone_bundle, tracks[:1], owners)
    with Reader() as reader:
        judge = Judge(owners, Ensemble(bundle.load(tone_bundle)), taxonomy, reader)
    assert found.rules == (judge._rule,)


def test_without_a_taxonomy_the_bundles_labels_and_settings_hold(judged: Evaluation, tracks: list[Track]) -> None:
    assert judged.genres == judged.labels == tuple(TONES_HZ)
    assert judged.rules[0].thresholds == dict.fromkeys(TONES_HZ, 0.7)
    assert [decision.genre for decision in judged.decisions[:-1]] == [track.genre for track in tracks[:-1]]
    assert judged.decisions[-1].abstention is Abstention.UNSURE
    assert judged.truths.tolist() == [0, 0, 1, 1, 2, 2, 1]
    assert all(len(one.logits) == 3 and one.decode_s > 0.0 and one.infer_s > 0.0 for one in judged.heard)


def test_labels_that_are_one_genre_to_the_owner_add_their_probabilities(
    tone_bundle: Path, tracks: list[Track], judged: Evaluation
) -> None:
    owner = config.parse(MERGED, "config.yaml")
    merged = evaluate(tone_bundle, tracks, owner, threads=1, device=Device.CPU)
    assert merged.genres == ("Old music", "Rock")
    assert merged.truths.tolist() == [0, 0, 0, 0, 1, 1, 0]
    assert [len(one.logits) for one in merged.heard] == [2] * 7
    summed = judged.served(judged.first(2))
    assert np.allclose(merged.probabilities[:, 0], summed[:, :2].sum(1), atol=0.05)
    assert merged.probabilities[:, 1] == pytest.approx([decision_of(merged, place) for place in range(7)])


def decision_of(evaluation: Evaluation, place: int) -> float:
    """The probability of rock in the decision on a track."""
    return {row.genre: row.probability for row in evaluation.decisions[place].candidates}["Rock"]


def test_what_cannot_be_heard_is_named_with_its_reason_and_the_rest_is_judged(
    tone_bundle: Path, tracks: list[Track], tmp_path: Path
) -> None:
    (tmp_path / "text.mp3").write_text("no music")
    (tmp_path / "empty.flac").touch()
    encode(tmp_path / "silent.flac", np.zeros((2, 44_100 * 6), np.float32))
    strange = [Track(tmp_path / name, "jazz") for name in ("text.mp3", "gone.mp3", "empty.flac", "silent.flac")]
    steps: list[tuple[int, int]] = []
    judged = evaluate(
        tone_bundle, [*strange, tracks[0]], threads=1, device=Device.CPU, advance=lambda *step: steps.append(step)
    )
    assert [left.path.name for left in judged.failures] == ["text.mp3", "gone.mp3", "empty.flac"]
    assert all(left.reason for left in judged.failures)
    assert judged.audible.tolist() == [False, True]
    assert judged.decisions[0].abstention is Abstention.SILENT
    assert judged.decisions[1].genre == tracks[0].genre
    assert steps == [(number, 5) for number in range(1, 6)]


def test_nothing_to_judge_by_is_refused(tone_bundle: Path, tracks: list[Track]) -> None:
    with pytest.raises(ConfigError, match="no track"):
        evaluate(tone_bundle, [])
    foreign = config.parse("taxonomy: [{name: Polka}, {name: Waltz}]", "config.yaml")
    with pytest.raises(ConfigError, match="has no genre for any label of tones-1: classical, jazz, rock"):
        evaluate(tone_bundle, tracks, foreign)


def test_a_saved_evaluation_comes_back_as_it_was(judged: Evaluation, tmp_path: Path) -> None:
    strange = Track(
        Path(os.fsdecode(b"/music/caf\xe9/\xe2\x99\xab\n.mp3")), "ジャズ", 3, "Sigur Rós", "tags", "ab", "( )", 1.5
    )
    quiet = Hearing(strange, 0, (), np.zeros((0, 3), np.float32), 0.25, 0.5)
    whole = Evaluation(judged.rules, (*judged.heard, quiet), (LeftOut(Path("/music/broken.mp3"), "is empty"),))
    whole.save(tmp_path / "new")
    back = Evaluation.load(tmp_path / "new")
    assert back.rules == whole.rules
    assert back.failures == whole.failures
    assert back.decisions == whole.decisions
    for ours, theirs in zip(back.heard, whole.heard, strict=True):
        assert (ours.track, ours.rule, ours.starts_s) == (theirs.track, theirs.rule, theirs.starts_s)
        assert (ours.decode_s, ours.infer_s) == (theirs.decode_s, theirs.infer_s)
        assert np.array_equal(ours.logits, theirs.logits)
        assert ours.logits.dtype == np.float32
    row = json.loads((tmp_path / "new" / FACTS).read_text())["tracks"][0]
    assert row["decision"]["genre"] == "classical"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _remove(path: Path) -> None:
    path.unlink()


def _older(path: Path) -> None:
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 7'))


@pytest.mark.parametrize(
    ("name", "damage"),
    [(FACTS, _cut), (ARRAYS, _cut), (FACTS, _remove), (ARRAYS, _remove), (FACTS, _older)],
)
def test_a_damaged_evaluation_is_refused(
    judged: Evaluation, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    judged.save(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(BadFile, match="evaluation"):
        Evaluation.load(tmp_path)


def test_arrays_of_another_evaluation_are_noticed(judged: Evaluation, tmp_path: Path) -> None:
    judged.save(tmp_path / "one")
    Evaluation(judged.rules, judged.heard[:2]).save(tmp_path / "other")
    (tmp_path / "other" / ARRAYS).replace(tmp_path / "one" / ARRAYS)
    with pytest.raises(BadFile, match="does not belong to"):
        Evaluation.load(tmp_path / "one")


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    taken = tmp_path / "report.html"
    taken.mkdir()
    with pytest.raises(FileTrouble, match=r"report\.html"):
        write_whole(taken, b"page")
    with pytest.raises(FileTrouble):
        write_whole(Path("/dev/null/report.html"), b"page")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert list(taken.iterdir()) == []


def test_folds_join_into_one_evaluation_each_judged_by_its_own_bundle(tmp_path: Path, tracks: list[Track]) -> None:
    parts = []
    for fold, threshold in enumerate((0.2, 1.0)):
        folder = make_bundle(tmp_path / str(fold), name=f"fold-{fold}", thresholds=threshold)
        held_out = [track for track in tracks if track.fold == fold]
        parts.append(evaluate(folder, held_out, threads=1, device=Device.CPU))
    both = join(parts)
    assert [one.track for one in both.heard] == sorted(tracks, key=lambda track: track.fold)
    assert [decision.bundle for decision in both.decisions] == ["fold-0"] * 3 + ["fold-1"] * 4
    assert [decision.genre is None for decision in both.decisions] == [False] * 3 + [True] * 4
    assert both.decisions == (*parts[0].decisions, *parts[1].decisions)
    assert join([both]).decisions == both.decisions


def test_what_does_not_belong_together_is_not_joined() -> None:
    one = Evaluation((rule(),), (hearing("/x", "a", [[1, 0, 0]]),))
    other = Evaluation((rule(c="b"),), (hearing("/x", "a", [[1, 0, 0]]),))
    with pytest.raises(ConfigError) as caught:
        join([one, other])
    assert caught.value.problems == ["number 2 has other labels or genres than the first one", "/x is in 2 of them"]
    with pytest.raises(ConfigError, match="none to join"):
        join([])


def test_decisions_are_made_anew_without_hearing_again() -> None:
    judged = Evaluation((rule(),), (hearing("/x", "a", [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),))
    assert judged.decisions[0].genre is None
    assert judged.decided_by(0.2, dict.fromkeys("abc", 0.6)).decisions[0].genre == "a"
    assert judged.decided_by(1.0, dict.fromkeys("abc", 0.4)).decisions[0].genre == "a"
    assert judged.decisions[0].genre is None


def test_fewer_segments_are_the_first_ones() -> None:
    judged = Evaluation((rule(),), (hearing("/x", "a", [[2, 0, 0], [0, 4, 0]]), hearing("/y", "b", [[0, 1, 0]])))
    assert judged.first(1).tolist() == [[2, 0, 0], [0, 1, 0]]
    assert judged.first(5).tolist() == judged.logits.tolist() == [[1, 2, 0], [0, 1, 0]]


def test_each_fold_keeps_its_own_temperature() -> None:
    rules = rule("one", 1.0), rule("two", 0.5)
    heard = hearing("/x", "a", [[1, 0, 0]]), hearing("/y", "a", [[1, 0, 0]], 1)
    first, second = Evaluation(rules, heard).probabilities
    assert first[0] == pytest.approx(np.e / (np.e + 2.0))
    assert second[0] == pytest.approx(np.e**2 / (np.e**2 + 2.0))


def test_logits_that_are_no_numbers_are_not_judged_by() -> None:
    judged = Evaluation((rule(),), (hearing("/x", "a", [[np.nan, 0, 0]]), hearing("/y", "a", [[1, 0, 0]])))
    assert judged.audible.tolist() == [False, True]
    assert judged.decisions[0].genre is None


@pytest.mark.data
def test_the_starter_hears_real_tracks(data_dir: Path) -> None:
    starter = Path(__file__).resolve().parents[1] / "daemon" / "starter"
    names = [
        (genre, path) for genre in ("classical", "jazz") for path in sorted((data_dir / "tracks" / genre).iterdir())
    ]
    some = [Track(path, genre) for genre, path in names[:3] + names[-3:]]
    judged = evaluate(starter, some, config.default(), threads=1, device=Device.CPU)
    assert not judged.failures
    assert (judged.probabilities.argmax(1) == judged.truths).mean() > 0.8
