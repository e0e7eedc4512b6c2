"""The report: whole in one file, safe with any name, readable by anybody, and right in what it says."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from daemon.core.decide import Rule
from daemon.core.errors import ConfigError, FileTrouble
from daemon.core.records import Device
from trainer.judging.calibrate import artist_weights, calibrate, held_out_folds
from trainer.judging.crosswise import crosswise
from trainer.judging.evaluate import Evaluation, Hearing, evaluate
from trainer.judging.findings import Findings, Rival, Share, find
from trainer.judging.suspects import Suspect, suspects
from trainer.progress import Outcome, Stopped
from trainer.telling import sentences
from trainer.telling.chapters import MOST_ROWS, Extras, Variant
from trainer.telling.fonts import lettering
from trainer.telling.report import PAGE, SUSPECTS, TEXT, legible, markdown, write_report
from trainer.tracks.manifest import LeftOut, Track

HOSTILE = '<script>alert("1")</script> & $x$ | `a` *b* [c](http://d) _e_'


def made(
    genres: list[str],
    tracks: int = 120,
    *,
    strength: float = 3.0,
    threshold: float = 0.6,
    without: str = "",
    failures: tuple[LeftOut, ...] = (),
) -> Evaluation:
    """An evaluation of three segments per track and four artists per genre; `without` names a genre without tracks."""
    chance = np.random.default_rng(0)
    rule = Rule("made-1", tuple(genres), dict(zip(genres, genres, strict=True)), 0.8, dict.fromkeys(genres, threshold))
    known = [place for place, genre in enumerate(genres) if genre != without]
    heard = []
    for number in range(tracks):
        genre = known[number % len(known)]
        logits = chance.normal(0.0, 1.0, (3, len(genres))).astype(np.float32)
        logits[:, genre] += strength
        artist = f"artist {genre}-{number % 4}"
        track = Track(Path(f"/music/{number}.flac"), genres[genre], number % 5, artist)
        heard.append(Hearing(track, 0, (0.0, 1.0, 2.0), logits, 0.1, 0.2))
    return Evaluation((rule,), tuple(heard), failures)


def all_extras(evaluation: Evaluation) -> Extras:
    """Everything that a report can tell."""
    artists = [hearing.track.artist for hearing in evaluation.heard]
    folds = held_out_folds(artists, [hearing.track.fold for hearing in evaluation.heard])
    fitted = calibrate(evaluation.logits, evaluation.truths, 0.9, artist_weights(artists), folds)
    run = Outcome(Stopped.EARLY, 3, 2, 30, (1.5, 1.0, 0.6), (1.4, 1.1, 1.2), (0.5, 0.7, 0.6))
    rival = Rival("the linear probe", {hearing.track.path: evaluation.genres[0] for hearing in evaluation.heard})
    return Extras(
        measured_on="tracks of artists that it never heard",
        aim=0.9,
        facts={"backbone": "mobilenet"},
        suspects=suspects(evaluation),
        rivals=[rival],
        variants=[Variant("float32", 4_200_000, 0.8, 1.0, 0.02), Variant("8 bit", 1_100_000)],
        learning={"fold 0": run, "fold 1": run},
        calibration=fitted,
    )


class Page(HTMLParser):
    """What a test asks of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unclosed: list[str] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "source", "link", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1:] == [tag]:
            self.open.pop()
        else:
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data.strip())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of this kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        """All that is to be read, in one line."""
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A report with everything in it."""
    evaluation = made(["jazz", "rock", "pop"], failures=(LeftOut(Path("/music/broken.mp3"), "is empty"),))
    extras = all_extras(evaluation)
    folder = tmp_path_factory.mktemp("report")
    return Page(write_report(crosswise(evaluation, 0.9), folder, title="Report of made-1", extras=extras))


# The page


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    named = [
        value or ""
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key in {"src", "href", "srcset"}
    ]
    assert named
    assert [name[:40] for name in named if not name.startswith(("data:image/svg+xml;base64,", "#"))] == []
    assert {"script", "link", "iframe", "object", "form", "audio"} & {tag for tag, _ in page.tags} == set()
    assert [key for _, attributes in page.tags for key in attributes if key.startswith("on") or key == "style"] == []


def test_the_page_allows_its_own_style_and_nothing_else(page: Page) -> None:
    (policy,) = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert re.search(r"url\(|@import", style) is None


def test_the_page_is_built_for_everybody(page: Page) -> None:
    assert page.of("html") == [{"lang": "en"}]
    assert (page.open, page.unclosed) == ([], [])
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert set(headings[1:]) == {2}
    assert all(image["alt"] and image["width"] and image["height"] for image in page.of("img"))
    assert len(page.of("img")) == len(page.of("figure")) == 6
    assert len(page.of("caption")) == len(page.of("table"))
    assert all(cell.get("scope") in {"row", "col"} for cell in page.of("th"))
    assert {"width=device-width, initial-scale=1", "light dark"} <= {meta.get("content") for meta in page.of("meta")}
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {(link["href"] or "")[1:] for link in page.of("a")} <= anchors


def test_every_picture_says_how_to_read_it_and_what_it_says(page: Page) -> None:
    assert page.text.count("How to read it: ") == 6
    assert page.source.count('<p class="here">') == 6


def test_every_part_is_there(page: Page) -> None:
    parts = [section["id"] for section in page.of("section")]
    assert parts == [
        *("coverage", "genres", "confusion", "reliability", "segments", "learning"),
        *("rivals", "variants", "suspects", "unheard", "measured"),
    ]
    for said in ("/music/broken.mp3", "is empty", "The linear probe names 33.3%", "8 bit", "mobilenet", "made-1"):
        assert said in page.text


def test_files_lie_beside_the_page(page: Page, tmp_path: Path) -> None:
    evaluation = made(["jazz", "rock"], 40)
    path = write_report(evaluation, tmp_path, title="Plain")
    assert path == tmp_path / PAGE
    assert sorted(found.name for found in tmp_path.iterdir()) == ["plots", PAGE, TEXT]
    text = (tmp_path / TEXT).read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) == 5
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert sentences.headline(find(evaluation)) in text


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    evaluation = made(["jazz", "rock"], 40)
    for name in ("one", "two"):
        write_report(evaluation, tmp_path / name, title="Same", extras=Extras(suspects=[]))
    for first in sorted((tmp_path / "one").rglob("*.*")):
        assert first.read_bytes() == (tmp_path / "two" / first.relative_to(tmp_path / "one")).read_bytes()


def test_the_bundle_of_tones_is_reported_on(tone_bundle: Path, tmp_path: Path) -> None:
    from make_bundle import TONES_HZ, make_track

    tracks = [Track(make_track(tmp_path / f"{label}.flac", label), label) for label in TONES_HZ]
    judged = evaluate(tone_bundle, tracks, threads=1, device=Device.CPU)
    page = Page(write_report(judged, tmp_path / "report", title="Tones"))
    assert "It tags every track, and every one of these tags is right." in page.text


# Any evaluation


@pytest.mark.parametrize(
    "evaluation",
    [
        pytest.param(made(["speech", "music"], 9), id="two genres"),
        pytest.param(made([f"genre {number}" for number in range(60)], 300), id="sixty genres", marks=pytest.mark.slow),
        pytest.param(made(["a", "b", "c"], 30, without="b"), id="a genre without a track"),
        pytest.param(made(["a", "b"], 30, threshold=1.0, strength=0.5), id="never sure"),
        pytest.param(made(["a", "b"], 30, threshold=0.0, strength=-9.0), id="all wrong"),
        pytest.param(made(["a", "b"], 30, threshold=0.0, strength=9.0), id="all right"),
        pytest.param(made(["a", "b"], 1), id="one track"),
        pytest.param(made(["x" * 300, "y " * 90], 20), id="long names"),
    ],
)
def test_any_evaluation_can_be_reported_on(evaluation: Evaluation, tmp_path: Path) -> None:
    page = Page(write_report(evaluation, tmp_path, title="Any", extras=Extras(aim=0.9, suspects=suspects(evaluation))))
    assert (page.open, page.unclosed) == ([], [])
    assert "nan" not in page.text.lower().split()
    assert "-0" not in page.text.split()


def test_an_evaluation_of_nothing_is_refused(tmp_path: Path) -> None:
    nothing = Evaluation(made(["a", "b"], 1).rules, (), (LeftOut(Path("/x"), "is empty"),))
    with pytest.raises(ConfigError, match="no track of a known genre"):
        write_report(nothing, tmp_path / "out", title="Nothing")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileTrouble, match="plots"):
        write_report(made(["a", "b"], 10), tmp_path / "file", title="Nowhere")


# Foreign text


def test_names_are_text_and_never_code(tmp_path: Path) -> None:
    evaluation = made([HOSTILE, "rock"], 20, failures=(LeftOut(Path(f"/music/{HOSTILE}"), HOSTILE),))
    row = Suspect(Path(f"/music/{HOSTILE}.mp3"), HOSTILE, "rock", 0.1, 0.9)
    extras = Extras(measured_on=HOSTILE, facts={HOSTILE: HOSTILE}, suspects=[row], variants=[Variant(HOSTILE, 1)])
    page = Page(write_report(evaluation, tmp_path, title=HOSTILE, extras=extras))
    assert page.of("script") == page.of("b") == []
    assert HOSTILE in page.text
    text = (tmp_path / TEXT).read_text(encoding="utf-8")
    assert re.search(r"(?<!\\)<script>", text) is None
    assert re.search(r"(?<!\\)\[c\]", text) is None
    rows = [line for line in text.splitlines() if line.startswith("|") and "script" in line]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert len(rows) > 4
    assert columns <= {3, 4, 5, 6, 9}


def test_file_names_of_any_bytes_can_be_read_and_are_kept_in_the_list(tmp_path: Path) -> None:
    strange = os.fsdecode(b"/music/caf\xe9\n\xe2\x80\xaegpm.exe \xe2\x99\xab.mp3")
    evaluation = made(["a", "b"], 10, failures=(LeftOut(Path(strange), "is empty"),))
    row = Suspect(Path(strange), "a", "b", 0.1, 0.9)
    page = Page(write_report(evaluation, tmp_path, title="Bytes", extras=Extras(suspects=[row])))
    assert page.text.count(r"/music/caf\xe9\u000a\u202egpm.exe ♫.mp3") == 2
    (listed,) = list(
        csv.DictReader((tmp_path / SUSPECTS).read_text(errors="surrogateescape").splitlines(keepends=True))
    )
    assert listed["path"] == strange
    assert (listed["given"], listed["suggested"]) == ("a", "b")


def test_a_long_list_is_cut_on_the_page_and_whole_beside_it(tmp_path: Path) -> None:
    rows = [Suspect(Path(f"/music/{number}.mp3"), "a", "b", 0.1, 0.9) for number in range(MOST_ROWS + 50)]
    page = Page(write_report(made(["a", "b"], 10), tmp_path, title="Long", extras=Extras(suspects=rows)))
    assert f"The {MOST_ROWS} most doubtful of {MOST_ROWS + 50}" in page.text
    assert len((tmp_path / SUSPECTS).read_text().splitlines()) == MOST_ROWS + 51


def test_text_is_made_legible() -> None:
    assert legible("日本 ♫ é\x00\u202e") == "日本 ♫ é\\u0000\\u202e"
    assert markdown("a_b|c") == r"a\_b\|c"


def test_names_of_any_script_are_drawn_or_numbered(tmp_path: Path) -> None:
    # No font has the private letter; which ones have the others is a matter of the machine. Warnings are errors here.
    names = [
        "jazz",
        "クラシック音楽",
        "流行音樂",
        "재즈",
        "рок",
        "عربي",
        "हिन्दी",
        "🎷",
        "\ue123",
        "Cash $ Carry $",
        "é\n",
    ]
    letters = lettering(names)
    assert letters.texts["jazz"] == "jazz"
    assert letters.texts["рок"] == "рок"
    assert letters.numbered["\ue123"] == letters.texts["\ue123"] == "No. 9"
    page = Page(write_report(made(names, 44), tmp_path, title="Scripts"))
    assert "No. 9 is \ue123" in page.text
    assert all(name in page.text for name in names[:8])


def test_a_long_name_is_cut_by_its_width() -> None:
    assert lettering(["a" * 40]).texts["a" * 40] == "a" * 24 + "…"
    assert len(lettering(["楽" * 40]).texts["楽" * 40]) in {13, 5}


# What it says


def found_of(tagged: tuple[int, int], right: int) -> Findings:
    """Findings with so many of so many tracks tagged, and so many of the tags right."""
    count, of = tagged
    logits = np.zeros((of, 1, 2), np.float32)
    logits[:count, 0, 0] = 5.0
    rule = Rule("made-1", ("a", "b"), {"a": "a", "b": "b"}, 1.0, {"a": 0.9, "b": 0.9})
    genres = ["a"] * right + ["b"] * (of - right)
    heard = [
        Hearing(Track(Path(f"/{number}"), genre), 0, (0.0,), row, 0.0, 0.0)
        for number, (genre, row) in enumerate(zip(genres, logits, strict=True))
    ]
    return find(Evaluation((rule,), tuple(heard)))


@pytest.mark.parametrize(
    ("tagged", "right", "said"),
    [
        ((700, 1000), 644, "It tags 7 of 10 tracks, and 92 of 100 tags are right."),
        ((664, 1000), 600, "It tags 66 of 100 tracks, and 9 of 10 tags are right."),
        ((5, 12), 4, "It tags 5 of 12 tracks, and 4 of 5 tags are right."),
        ((0, 40), 0, "It tags none of the 40 tracks: it was never sure enough."),
        ((30, 30), 0, "It tags every track, and not one of these tags is right."),
        ((50, 60), 50, "It tags 50 of 60 tracks, and every one of these tags is right."),
        ((1000, 1000), 999, "It tags every track, and more than 99 of 100 tags are right."),
        ((1, 1000), 1, "It tags fewer than 1 of 100 tracks, and every one of these tags is right."),
    ],
)
def test_the_headline_says_it_in_one_sentence(tagged: tuple[int, int], right: int, said: str) -> None:
    assert sentences.headline(found_of(tagged, right)) == said


def test_sentences_follow_the_numbers() -> None:
    found = found_of((700, 1000), 644)
    assert "misses the aim of 99%" in sentences.coverage(found, 0.99)[1]
    assert "is above the aim of 80%" in sentences.coverage(found, 0.80)[1]
    assert "is about the aim of 92%" in sentences.coverage(found, 0.92)[1]
    assert sentences.confusion(found)[1] == "Most often b is taken for a: 356 of 356 tracks."
    assert "with all" not in sentences.segments(found)[1]
    assert (
        "too modest"
        in sentences.reliability(find(made(["a", "b"], 60, strength=1.5).decided_by(9.0, {"a": 1, "b": 1})))[1]
    )
    assert (
        "too sure"
        in sentences.reliability(find(made(["a", "b"], 60, strength=0.5).decided_by(0.1, {"a": 1, "b": 1})))[1]
    )


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "none"), (1.0, "all"), (0.3, "3 of 10"), (0.655, "66 of 100"), (0.001, "fewer than 1 of 100")],
)
def test_shares_are_told_as_counts(share: float, words: str) -> None:
    assert sentences.told(share) == words


def test_few_tracks_are_counted_as_they_are() -> None:
    assert sentences.counted(Share(3, 7, (0.0, 1.0))) == "3 of 7"
    assert sentences.listed(["a", "b", "c"]) == "a, b and c"
    assert sentences.listed(list("abcdefg")) == "a, b, c, d and 3 others"


# A real browser


@pytest.mark.slow
def test_a_browser_shows_the_page_without_a_complaint(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    path = write_report(made(["jazz", "rock"], 40), tmp_path, title="Browser")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/home",
    ]
    shown = subprocess.run(
        [browser, *options, f"--screenshot={tmp_path}/shot.png", "--window-size=500,900", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in shown.stderr
    assert (tmp_path / "shot.png").stat().st_size > 10_000
