"""A published network as a bundle: it hears AudioSet's genres with the network's own numbers, and replaces no other."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from daemon.core import bundle, catalogue
from daemon.core.audio import Sound
from daemon.core.bundle import Bundle
from daemon.core.catalogue import Pretrained
from daemon.core.decide import Rule, decide
from daemon.core.errors import BadFile, BundleError, ConfigError
from daemon.core.inference import Encoder, Ensemble, head_logits
from daemon.core.records import Device, Precision
from daemon.core.segments import tiled
from daemon.core.taxonomy import STARTER_GENRES, Genre, Taxonomy
from trainer.backbones.contract import Backbone
from trainer.backbones.mobilenet import MobileNet, load_mobilenet
from trainer.shipping import audioset, checkpoints
from trainer.shipping.audioset import GENRES, SUBGENRES, labels_for
from trainer.shipping.convert import convert, convert_named

STARTER = Taxonomy(STARTER_GENRES)
MN04 = catalogue.find("mn04")


# Which classes


@pytest.mark.data
def test_every_genre_has_its_place_in_audiosets_list(data_dir: Path) -> None:
    with open(data_dir / "weights" / "audioset_class_labels_indices.csv", encoding="utf-8", newline="") as file:
        names = {int(row["index"]): row["display_name"] for row in csv.DictReader(file)}
    assert len(names) == audioset.CLASSES
    assert [(each.index, each.name) for each in (*GENRES, *SUBGENRES)] == [
        (each.index, names[each.index]) for each in (*GENRES, *SUBGENRES)
    ]


def test_every_subgenre_is_part_of_a_genre_and_nothing_is_listed_twice() -> None:
    assert {part.parent for part in SUBGENRES} <= {genre.index for genre in GENRES}
    assert len({each.index for each in (*GENRES, *SUBGENRES)}) == len(GENRES) + len(SUBGENRES) == 49


def test_the_genres_that_the_program_starts_with_are_all_heard() -> None:
    labels = labels_for(STARTER)
    assert len(labels) == len(GENRES)
    assert {STARTER.resolve(label) for label in labels} - {None} == set(STARTER.names)


def test_a_subgenre_is_heard_by_an_owner_who_has_a_name_for_it() -> None:
    owner = Taxonomy([*STARTER_GENRES, Genre("Metal", ("heavy metal",)), Genre("opera", parent="classical")])
    more = labels_for(owner).keys() - labels_for(STARTER).keys()
    assert more == {"Heavy metal", "Opera"}
    assert [genre.index for genre in labels_for(owner).values()] == sorted(g.index for g in labels_for(owner).values())


def test_a_subgenre_that_the_owner_counts_as_its_genre_adds_nothing() -> None:
    """The taxonomy that the program starts with takes "electronica" for electronic."""
    assert STARTER.resolve("Electronica") == "electronic"
    assert "Electronica" not in labels_for(STARTER)


def test_a_label_is_written_as_the_owner_has_it() -> None:
    assert "Soul" in labels_for(Taxonomy([Genre("soul")]))
    assert "Soul music" in labels_for(Taxonomy([Genre("R'n'B", ("soul music",))]))
    assert "Soul" in labels_for(None)


# The bundle


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of the real architecture, far narrower, with random weights."""
    torch.manual_seed(7)
    network = MobileNet(0.1)
    path = tmp_path_factory.mktemp("checkpoint") / "narrow.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle."""
    out = tmp_path_factory.mktemp("models") / MN04.bundle_id
    convert(MN04, checkpoint, out, STARTER)
    return out


def sounds(network: Backbone, count: int = 3) -> NDArray[np.float32]:
    noise = np.random.default_rng(5).normal(0.0, 0.1, (count, round(network.window_s * network.sample_rate_hz)))
    return noise.astype(np.float32)


def logits_of(loaded: Bundle, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the daemon makes of windows [n, samples]: logits [n, labels]."""
    (member,) = loaded.members
    return head_logits(member, Encoder(member, ["CPUExecutionProvider"], threads=1).embed(waveform))


def own_logits(network: Backbone, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return network.source_logits(network(torch.from_numpy(waveform))).numpy()


@pytest.mark.slow
def test_the_bundle_says_what_the_network_says(made: Path, checkpoint: Path) -> None:
    network = load_mobilenet(checkpoint)
    waveform = sounds(network)
    rows = [genre.index for genre in labels_for(STARTER).values()]
    expected = own_logits(network, waveform)[:, rows]
    assert np.ptp(expected) > 0.01
    assert np.abs(logits_of(bundle.load(made), waveform) - expected).max() < 1e-3


@pytest.mark.slow
def test_the_bundle_says_of_itself_what_it_is(made: Path) -> None:
    manifest = bundle.load(made).manifest
    assert manifest.id == "efficientat-mn04-audioset"
    assert manifest.labels == list(labels_for(STARTER))
    assert manifest.decision.temperature == 1.0
    assert set(manifest.decision.thresholds.values()) == {0.6}
    assert manifest.licence == "MIT"
    assert manifest.provenance["converted_from"] == "efficientat-mn04"
    assert manifest.provenance["classes"]["Hip hop"] == {"index": 217, "name": "Hip hop music"}
    assert manifest.metrics == {}
    card = (made / "MODEL_CARD.md").read_text(encoding="utf-8")
    for words in ("no calibrated probabilities", "music-reclass-train fit", "efficientat-mn04", "MIT"):
        assert words in " ".join(card.split())


@pytest.mark.slow
def test_a_pulled_checkpoint_is_converted_by_name_and_replaces_the_bundle_made_earlier(
    made: Path, checkpoint: Path, tmp_path: Path
) -> None:
    pulled(MN04, tmp_path / "models", checkpoint.read_bytes())
    out = tmp_path / "models" / MN04.bundle_id
    shutil.copytree(made, out)
    convert_named("mn04", None, out, tmp_path / "models", Taxonomy([Genre("jazz"), Genre("techno")]))
    assert "Techno" in bundle.load(out).labels
    assert sorted(path.name for path in out.parent.iterdir()) == ["checkpoints", MN04.bundle_id]


@pytest.mark.slow
def test_the_bundle_of_another_network_is_not_replaced(made: Path, checkpoint: Path) -> None:
    with pytest.raises(BundleError, match="is another bundle, and is not replaced"):
        convert(catalogue.find("mn10"), checkpoint, made)
    assert bundle.load(made).id == MN04.bundle_id


def test_what_is_no_such_bundle_is_not_replaced(checkpoint: Path, tone_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is another bundle, and is not replaced"):
        convert(MN04, checkpoint, tone_bundle)
    (tmp_path / "music.flac").touch()
    with pytest.raises(BundleError, match="it is not replaced"):
        convert(MN04, checkpoint, tmp_path)
    assert (tmp_path / "music.flac").exists() and bundle.load(tone_bundle)


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_checkpoint_makes_no_bundle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(BadFile, match=r"net\.pt"):
        convert(MN04, tmp_path / "net.pt", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_network_of_other_classes_makes_no_bundle(tmp_path: Path) -> None:
    torch.save(MobileNet(0.1, classes=10).state_dict(), tmp_path / "net.pt")
    with pytest.raises(BadFile, match="does not end in AudioSet's 527 classes"):
        convert(MN04, tmp_path / "net.pt", tmp_path / "bundle")


# The AST


def small_ast(folder: Path, names: dict[int, str]) -> Path:
    """A tiny AST with random weights, written as Hugging Face does, whose classes are called `names`."""
    from trainer.backbones.ast import Ast

    torch.manual_seed(8)
    network = Ast.random(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_length=128, num_labels=527
    )
    network.model.config.id2label = {index: names.get(index, f"class {index}") for index in range(527)}
    network.model.config.label2id = {name: index for index, name in network.model.config.id2label.items()}
    network.save(folder)
    return folder


NAMES = {each.index: each.name for each in (*GENRES, *SUBGENRES)}


@pytest.mark.slow
def test_an_ast_says_as_a_bundle_what_it_says_as_itself(tmp_path: Path) -> None:
    from trainer.backbones.ast import Ast

    folder = small_ast(tmp_path / "ast", NAMES)
    entry = catalogue.find("ast")
    convert(entry, folder, tmp_path / "bundle", STARTER)
    network = Ast.from_pretrained(folder)
    waveform = sounds(network)
    rows = [genre.index for genre in labels_for(STARTER).values()]
    loaded = bundle.load(tmp_path / "bundle")
    assert loaded.manifest.licence == "BSD-3-Clause"
    assert np.abs(logits_of(loaded, waveform) - own_logits(network, waveform)[:, rows]).max() < 1e-3


@pytest.mark.slow
def test_an_ast_with_classes_in_another_order_makes_no_bundle(tmp_path: Path) -> None:
    folder = small_ast(tmp_path / "ast", NAMES | {216: "Rock music", 219: "Pop music"})
    with pytest.raises(BadFile, match="calls its class 216 'Rock music', AudioSet 'Pop music'"):
        convert(catalogue.find("ast"), folder, tmp_path / "bundle")


# By name


def pulled(entry: Pretrained, models: Path, content: bytes = b"") -> Path:
    folder = catalogue.folder_of(entry, models)
    folder.mkdir(parents=True)
    for file in entry.files:
        (folder / file.name).write_bytes(content)
    return folder


def test_a_pulled_checkpoint_is_found_by_name(tmp_path: Path) -> None:
    folder = pulled(MN04, tmp_path)
    for name in ("mn04", "efficientat-mn04"):
        assert checkpoints.find(name, tmp_path) == folder / "mn04_as_mAP_432.pt"
    ast = catalogue.find("ast")
    folder = pulled(ast, tmp_path)
    assert checkpoints.find("MIT/ast-finetuned-audioset-10-10-0.4593", tmp_path) == folder
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"not here yet: config\.json; `music-reclass models pull ast` fetches it"):
        checkpoints.find("ast", tmp_path)


def test_a_checkpoint_is_found_by_path(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").touch()
    assert checkpoints.find(str(tmp_path / "mine.pt"), tmp_path) == tmp_path / "mine.pt"
    with pytest.raises(ConfigError, match=r"no pretrained network is called so \(efficientat-mn04, .*ast\)"):
        checkpoints.find(str(tmp_path / "yours.pt"), tmp_path)


def test_a_checkpoint_by_path_tells_by_its_names_what_it_is(tmp_path: Path) -> None:
    told = checkpoints.name_of
    for text in ("mn04", "/x/mn04_as_mAP_432.pt", "/models/checkpoints/efficientat-mn04/any.pt"):
        assert told(text) == MN04
    assert told("/models/checkpoints/ast") == catalogue.find("ast")
    assert told("/x/mine.pt") is None
    with pytest.raises(ConfigError, match="say of which with --name"):
        convert_named("/x/mine.pt", None, tmp_path / "bundle", tmp_path, STARTER)


# The real network


@pytest.mark.data
@pytest.mark.slow
def test_the_real_network_serves_real_tracks_with_its_own_logits(data_dir: Path, tmp_path: Path) -> None:
    weights = data_dir / "weights" / "efficientat_mn04_as_mAP_432.pt"
    convert(MN04, weights, tmp_path / "bundle", STARTER)
    ensemble = Ensemble(bundle.load(tmp_path / "bundle"), device=Device.CPU, precision=Precision.FP32, threads=1)
    network, rule = load_mobilenet(weights), rule_for(ensemble.bundle)
    rows = [genre.index for genre in labels_for(STARTER).values()]
    right = wrong = 0
    for genre in ("classical", "jazz"):
        for path in sorted((data_dir / "tracks" / genre).glob("gtzan-*"))[10::15][:3]:
            with Sound(path) as sound:
                heard = ensemble.hear(sound, 3)
                read = [sound.read(window.start_s, window.length_s, 32_000) for window in heard.windows]
            windows = np.stack([tiled(samples, round(network.window_s * 32_000)) for samples in read])
            assert np.abs(heard.logits - own_logits(network, windows)[:, rows]).max() < 1e-3
            decision = decide(heard.logits, [window.start_s for window in heard.windows], rule)
            right += decision.genre == genre
            wrong += decision.genre not in (None, genre)
    assert right >= 4 and wrong <= 1


def rule_for(loaded: Bundle) -> Rule:
    """Its own thresholds, for the genres that the program starts with."""
    decision = loaded.manifest.decision
    genres = STARTER.mapping(loaded.labels)
    thresholds = {name: decision.thresholds[label] for label, name in genres.items() if name is not None}
    return Rule(loaded.id, loaded.labels, genres, decision.temperature, thresholds)
