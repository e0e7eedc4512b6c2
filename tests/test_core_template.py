"""Where a track belongs: bad templates are refused with every reason; good ones give safe places, whatever tags say."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.core import template
from daemon.core.taxonomy import FOLDER_LIMIT_BYTES

DEFAULT = "{genre}/{folder}/{name}"
GOOD = (
    DEFAULT,
    "{name}",
    "{parent}/{genre}/{artist}/{album}/{title}",
    "{artist}/{folder}/{genre}/{name}",
    "Music by {genre}/{artist} - {album}/{artist} - {title}",
    "{genre}/{{{artist}}}/{name}",
    "日本/{genre}/{name}",
)
FIELDS = {
    "genre": "Rock",
    "parent": "Popular",
    "artist": "AC/DC",
    "album": "Back in Black",
    "title": "Hells Bells",
    "folder": "in/here",
    "name": "01 hells bells",
}

# Far more hostile than any tag: separators, dots, controls, directions, marks, names of devices, halves of characters.
HOSTILE = st.text(
    st.one_of(
        st.sampled_from('/\\..<>:"|?* \t\n\x00\x7f\u202e\u2066\u200d\u0301\u2028~_ABnulco1¹\ud800é日\U0001f9d1'),
        st.characters(),
    ),
    max_size=40,
)
TEXTS = st.one_of(
    HOSTILE,
    st.builds(lambda text, times: text * times, HOSTILE, st.integers(1, 60)),
    st.sampled_from(
        ["", ".", "..", "../../etc", "a/../../b", "/etc/passwd", "CON", "nul.txt", "COM1 .x", "con" + " " * 300 + "x"]
    ),
)


def rendered(text: str, suffix: str = ".mp3", **fields: str) -> str:
    assert template.flaws(text) == []
    return str(template.render(text, FIELDS | fields, suffix))


def is_safe(name: str, limit_bytes: int) -> bool:
    """By the rules of Samba and Windows, written down anew."""
    return (
        0 < len(name.encode("utf-8")) <= limit_bytes
        and not re.search(
            r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]', name
        )
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and not re.fullmatch(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *", name.split(".")[0].lower())
        and unicodedata.is_normalized("NFC", name)
    )


class TestFlaws:
    @pytest.mark.parametrize("text", GOOD)
    def test_a_good_template_has_none(self, text: str) -> None:
        assert template.flaws(text) == []

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "empty"),
            ("  ", "empty"),
            ("/{genre}/{name}", "below the root"),
            ("~/{genre}/{name}", "below the root"),
            ("../{name}", r"component \.\."),
            ("{genre}/../{name}", r"component \.\."),
            ("./{name}", r"component \."),
            ("{genre}//{name}", "empty component"),
            ("{genre}/{name}/", "empty component"),
            ("{genre}/{folder}", "{name} or {title}"),
            ("{genre}/{artist}", "{name} or {title}"),
            ("{genre}/fixed", "{name} or {title}"),
            ("{genre}/{artist} - {name}", "whole last component"),
            ("{genre}/in {folder}/{name}", "stand alone"),
            ("{folder}/{folder}/{name}", "once"),
            ("{genre.__class__}/{name}", "no field"),
            ("{genre[0]}/{name}", "no field"),
            ("{}/{name}", "no field"),
            ("{0}/{name}", "no field"),
            ("{year}/{name}", "no field {year}: use {genre}"),
            ("{genre!r}/{name}", "alone in its braces"),
            ("{genre:>9}/{name}", "alone in its braces"),
            ("{genre:{name}}/{name}", "alone in its braces"),
            ("{genre/{name}", "cannot be read"),
            ("genre}/{name}", "cannot be read"),
            ("{genre}/\n{name}", "control characters"),
            ("{genre}/\u202e{name}", "direction of writing"),
            ("{genre}/a:b/{name}", "holds :"),
            ("{genre}\\{name}", "Windows"),
            (".hidden/{name}", "safe folder name"),
            ("{genre}/.{title}", "hidden"),
            ("CON/{name}", "_CON"),
            ("x" * 200 + "/{name}", "safe folder name"),
        ],
    )
    def test_a_bad_template_is_refused_with_the_reason(self, text: str, reason: str) -> None:
        found = template.flaws(text)
        assert found
        assert re.search(reason, "; ".join(found)), found

    def test_every_reason_is_told_at_once(self) -> None:
        assert len(template.flaws("/{year}/{genre!r}/a:b/{name}")) == 4

    @given(st.text(st.sampled_from("{}/.:! agenrm~\\\n") | st.characters(), max_size=30))
    def test_any_text_is_refused_or_can_be_rendered(self, text: str) -> None:
        if template.flaws(text) == []:
            assert not template.render(text, FIELDS, ".mp3").is_absolute()


class TestRendering:
    def test_the_fields_stand_in_their_places(self) -> None:
        assert rendered(DEFAULT) == "Rock/in/here/01 hells bells.mp3"
        assert rendered("{parent}/{genre}/{artist}/{title}") == "Popular/Rock/AC_DC/Hells Bells.mp3"
        assert rendered("{{{genre}}}/{name}") == "{Rock}/01 hells bells.mp3"

    def test_an_empty_folder_vanishes_with_its_slash(self) -> None:
        for folder in ("", "/", ".", "..", "../.."):
            assert rendered(DEFAULT, folder=folder) == "Rock/01 hells bells.mp3"

    @pytest.mark.parametrize("artist", ["", " ", "...", "\u200b", "\u202e", " \u200d. "])
    def test_what_is_not_known_has_a_name(self, artist: str) -> None:
        assert rendered("{genre}/{artist}/{artist} - {title}", artist=artist) == (
            "Rock/Unknown/Unknown - Hells Bells.mp3"
        )
        assert str(template.render("{artist}/{name}", {"name": "x"}, ".mp3", unknown="?")) == "_/x.mp3"

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("AC/DC", "AC_DC"),
            ('a\\b:c*d?e"f<g>h|i', "a_b_c_d_e_f_g_h_i"),
            ("../../etc", "_._.._etc"),
            ("  blanks  ", "blanks"),
            ("Vol. 1...", "Vol. 1"),
            (".38 Special", "_38 Special"),
            ("CON", "_CON"),
            ("com1.txt", "_com1.txt"),
            ("LPT\u00b9", "_LPT\u00b9"),
            ("Nul .x", "_Nul .x"),
            ("console", "console"),
            ("Bjo\u0308rk", "Björk"),
            ("evil\u202e3pm.exe", "evil3pm.exe"),
            ("line\nbreak\u2028", "line_break_"),
            ("caf\udce9", "caf_"),
            ("می\u200cخواهم", "می\u200cخواهم"),
            ("R&B ♥ 日本語 #1", "R&B ♥ 日本語 #1"),
        ],
    )
    def test_a_name_is_made_safe_and_otherwise_left(self, text: str, name: str) -> None:
        assert template.safe_folder_name(text) == name
        assert rendered("{artist}/{name}", artist=text).split("/")[0] == name

    def test_a_suffix_is_kept_as_it_is(self) -> None:
        assert rendered("{name}", suffix=".FLAC", name="a. ") == "a..FLAC"
        assert rendered("{name}", suffix="", name="a") == "a"
        for suffix in ("mp3", "./x", ".", ".a b", ".mp3/.."):
            with pytest.raises(ValueError, match="no suffix"):
                template.render("{name}", FIELDS, suffix)

    @pytest.mark.parametrize(
        "text", ["日" * 100, "e\u0323\u0302\u0301" * 100, "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 30, "x" * 300]
    )
    def test_a_long_name_is_cut_between_whole_characters(self, text: str) -> None:
        text = unicodedata.normalize("NFC", text)
        for limit in range(120, 150):
            kept = template.cut(text, limit)
            assert text.startswith(kept) and limit - 18 <= len(kept.encode()) <= limit
            rest = text[len(kept) :]
            assert not unicodedata.combining(rest[0]) and "\u200d" not in (rest[0], kept[-1])

    def test_what_is_longer_than_the_limit_by_itself_is_cut_all_the_same(self) -> None:
        assert 1 < len(template.cut("a" + "\u0301" * 300, 100).encode()) <= 100

    def test_limits_count_the_suffix_and_differ_for_folders(self) -> None:
        place = template.render("{genre}/{name}", {"genre": "g" * 300, "name": "n" * 300}, ".flac")
        assert [len(part) for part in place.parts] == [FOLDER_LIMIT_BYTES, 255]
        assert place.suffix == ".flac"

    @given(
        st.sampled_from(GOOD),
        st.fixed_dictionaries(dict.fromkeys(template.FIELDS, TEXTS)),
        st.sampled_from([".mp3", ".FLAC", ".m4a"]),
        TEXTS,
    )
    @example(GOOD[0], dict.fromkeys(template.FIELDS, "../../etc"), ".mp3", "..")
    @example(GOOD[2], dict.fromkeys(template.FIELDS, "con" + " " * 300 + "x"), ".mp3", "")
    def test_whatever_the_tags_say_the_place_is_below_the_root_and_safe(
        self, text: str, fields: dict[str, str], suffix: str, unknown: str
    ) -> None:
        place = template.render(text, fields, suffix, unknown=unknown)
        assert not place.is_absolute() and ".." not in place.parts
        assert place.name.endswith(suffix)
        assert len(place.parts) >= len(template.components(text)) - 1
        assert all(is_safe(part, FOLDER_LIMIT_BYTES) for part in place.parts[:-1]), place
        assert is_safe(place.name, template.NAME_LIMIT_BYTES), place

    @given(TEXTS)
    def test_a_safe_name_stays_as_it_is(self, text: str) -> None:
        folder = template.safe_folder_name(text)
        assert template.safe_folder_name(folder) == folder
        name = PurePosixPath(template.safe_name(text, ".mp3"))
        assert template.safe_name(name.stem, name.suffix) == name.name
