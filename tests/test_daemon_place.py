"""Which place a track should have, and what goes there with it."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core import template as templates
from daemon.core.taxonomy import Genre, Taxonomy
from daemon.rules import place

DEFAULT = "{genre}/{folder}/{name}"
TAXONOMY = Taxonomy(
    [
        Genre("rock"),
        Genre("Punk/Hardcore", parent="rock"),
        Genre("jazz", folder="Jazz & Blues"),
        Genre("古典"),
    ]
)
AUDIO = frozenset({".mp3", ".flac"})


def destination(present: str, genre: str = "rock", template: str = DEFAULT, **tags: str | None) -> str | None:
    found = place.destination(PurePosixPath(present), genre, TAXONOMY, template=template, **tags)
    return None if found is None else str(found)


class TestDestination:
    @pytest.mark.parametrize(
        ("present", "genre", "wanted"),
        [
            ("song.mp3", "rock", "rock/song.mp3"),
            ("Artist/Album/song.mp3", "rock", "rock/Artist/Album/song.mp3"),
            ("rock/Artist/song.mp3", "jazz", "Jazz & Blues/Artist/song.mp3"),
            ("ROCK/Artist/song.mp3", "jazz", "Jazz & Blues/Artist/song.mp3"),
            ("rock/song.mp3", "jazz", "Jazz & Blues/song.mp3"),
            ("Jazz & Blues/x/song.FLAC", "Punk/Hardcore", "Punk_Hardcore/x/song.FLAC"),
            ("Rock/song.mp3", "rock", "rock/song.mp3"),
            ("古典/song.mp3", "rock", "rock/song.mp3"),
            # Only the genre's own folder goes: an artist may be called like a genre.
            ("rock/jazz/song.mp3", "古典", "古典/jazz/song.mp3"),
            ("Artist/rock/song.mp3", "jazz", "Jazz & Blues/Artist/rock/song.mp3"),
        ],
    )
    def test_refiling_changes_the_genre_folder_and_keeps_the_rest(self, present: str, genre: str, wanted: str) -> None:
        assert destination(present, genre) == wanted

    @pytest.mark.parametrize(
        "present",
        [
            "rock/song.mp3",
            "rock/Artist/song.mp3",
            "rock/rock/song.mp3",
            "rock/Artist: the best?/what... is <this>.mp3",
            "rock/Bjo\u0308rk/song.mp3",
            "rock/.../....mp3",
            "rock/x/song (2).mp3",
        ],
    )
    def test_a_track_that_is_there_stays(self, present: str) -> None:
        assert destination(present) is None

    def test_a_track_that_had_to_take_a_number_stays(self) -> None:
        template = "{genre}/{title}"
        assert destination("rock/Song (2).mp3", template=template, title="Song") is None
        assert destination("rock/Song (17).mp3", template=template, title="Song") is None
        assert destination("rock/Song (1).mp3", template=template, title="Song") == "rock/Song.mp3"
        assert destination("rock/Other (2).mp3", template=template, title="Song") == "rock/Song.mp3"
        assert destination("jazz/Song (2).mp3", template=template, title="Song") == "rock/Song.mp3"
        long = "x" * 300
        first = PurePosixPath(destination("song.mp3", template=template, title=long) or "")
        assert destination(str(place.numbered(first, 3)), template=template, title=long) is None

    def test_parents_artists_and_albums_have_their_folders(self) -> None:
        template = "{parent}/{genre}/{artist}/{album}/{title}"
        tags = {"artist": "AC/DC", "album": "Back in Black", "title": "Hells Bells"}
        here = destination("in/01.mp3", "Punk/Hardcore", template, **tags)
        assert here == "rock/Punk_Hardcore/AC_DC/Back in Black/Hells Bells.mp3"
        assert destination("in/01.mp3", "rock", template, **tags) == ("rock/rock/AC_DC/Back in Black/Hells Bells.mp3")
        assert destination(here, "Punk/Hardcore", template, **tags) is None

    @pytest.mark.parametrize("title", [None, "", " ", "...", "\u200b"])
    def test_a_track_without_a_title_keeps_its_name(self, title: str | None) -> None:
        template = "{genre}/{artist}/{artist} - {title}"
        assert destination("01 song.mp3", template=template, title=title) == "rock/Unknown/01 song.mp3"
        assert destination("rock/Unknown/01 song.mp3", template=template, title=title) is None

    @pytest.mark.parametrize(
        ("template", "present", "wanted"),
        [
            ("{parent}/{genre}/{folder}/{name}", "rock/rock/A/s.mp3", "Jazz & Blues/Jazz & Blues/A/s.mp3"),
            ("{parent}/{genre}/{folder}/{name}", "rock/Punk_Hardcore/A/s.mp3", "Jazz & Blues/Jazz & Blues/A/s.mp3"),
            ("{parent}/{genre}/{folder}/{name}", "rock/A/s.mp3", "Jazz & Blues/Jazz & Blues/A/s.mp3"),
            ("Music/{genre}/{folder}/{name}", "Music/rock/A/s.mp3", "Music/Jazz & Blues/A/s.mp3"),
            ("Music/{genre}/{folder}/{name}", "Music/A/s.mp3", "Music/Jazz & Blues/A/s.mp3"),
            ("Music/{genre}/{folder}/{name}", "rock/A/s.mp3", "Music/Jazz & Blues/A/s.mp3"),
            ("{folder}/{genre}/{name}", "A/rock/s.mp3", "A/Jazz & Blues/s.mp3"),
            ("{folder}/{genre}/{name}", "A/s.mp3", "A/Jazz & Blues/s.mp3"),
            ("{artist}/{genre}/{folder}/{name}", "Miles/rock/A/s.mp3", "Miles/Jazz & Blues/A/s.mp3"),
            ("{artist}/{folder}/{name}", "rock/s.mp3", "Miles/rock/s.mp3"),
        ],
    )
    def test_what_the_template_gave_is_not_given_twice(self, template: str, present: str, wanted: str) -> None:
        assert destination(present, "jazz", template, artist="Miles") == wanted

    names = st.one_of(
        st.sampled_from(
            ["rock", "Rock", "Punk_Hardcore", "Jazz & Blues", "古典", "Artist", "Miles", "...", "a (2)", "CON"]
        ),
        st.text(st.characters(exclude_characters="/\x00"), min_size=1, max_size=12).filter(
            lambda name: name not in (".", "..")
        ),
    )

    @given(
        present=st.lists(names, min_size=1, max_size=5),
        genres=st.tuples(st.sampled_from(TAXONOMY.names), st.sampled_from(TAXONOMY.names)),
        template=st.sampled_from(
            [
                DEFAULT,
                "{genre}/{title}",
                "{genre}/{artist}/{name}",
                "{parent}/{genre}/{folder}/{name}",
                "Music/{genre}/{folder}/by {artist}/{artist} - {title}",
                "{folder}/{genre}/{album}/{name}",
                "{artist}/{genre}/{folder}/{title}",
                "{folder}/{name}",
            ]
        ),
        tags=st.fixed_dictionaries(dict.fromkeys(("artist", "album", "title"), st.one_of(st.none(), names))),
    )
    def test_once_moved_a_track_is_there_and_refiling_leads_there_and_back(
        self, present: list[str], genres: tuple[str, str], template: str, tags: dict[str, str | None]
    ) -> None:
        assert templates.flaws(template) == []
        path = "/".join(present) + ".mp3"
        first = destination(path, genres[0], template, **tags) or path
        assert destination(first, genres[0], template, **tags) is None
        second = destination(first, genres[1], template, **tags) or first
        assert destination(second, genres[1], template, **tags) is None
        assert len(PurePosixPath(second).parts) <= len(present) + 4


class TestNumbered:
    def test_the_number_stands_before_the_suffix(self) -> None:
        assert place.numbered(PurePosixPath("a/song.mp3"), 2) == PurePosixPath("a/song (2).mp3")
        assert place.numbered(PurePosixPath("a.b/song.x.FLAC"), 12) == PurePosixPath("a.b/song.x (12).FLAC")

    @given(
        st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), max_size=300),
        st.integers(2, 9999),
    )
    def test_the_name_stays_within_the_limit(self, stem: str, number: int) -> None:
        path = PurePosixPath("folder", templates.safe_name(stem, ".flac"))
        found = place.numbered(path, number)
        assert len(found.name.encode()) <= templates.NAME_LIMIT_BYTES
        assert found.parent == path.parent and found.name.endswith(f" ({number}).flac")


class TestCompanions:
    def test_what_has_the_name_of_the_track_goes_along(self) -> None:
        own = ["song.lrc", "Song.CUE", "song.txt", "song.nfo", "SONG.JPG", "song.png", "song.mp3.lrc", "song.webp"]
        others = ["song 2.lrc", "songs.txt", "cover.jpg", "song.pdf", "song.reclass", "song.live.lrc", "other.mp3"]
        assert place.companions("song.mp3", [*own, *others], AUDIO) == tuple(own)

    def test_what_two_tracks_of_a_name_share_stays_until_the_last_leaves(self) -> None:
        siblings = ["song.lrc", "song.jpg", "song.mp3.lrc", "song.flac.lrc"]
        assert place.companions("song.mp3", [*siblings, "Song.FLAC"], AUDIO) == ("song.mp3.lrc",)
        assert place.companions("song.mp3", siblings, AUDIO) == ("song.lrc", "song.jpg", "song.mp3.lrc")

    def test_what_a_mac_leaves_beside_a_track_is_no_second_track(self) -> None:
        assert place.companions("song.mp3", ["song.lrc", "._song.flac"], AUDIO) == ("song.lrc",)
        assert place.folder_companions(["cover.jpg", "._song.flac"], AUDIO) == ("cover.jpg",)

    def test_the_folder_goes_with_its_last_track(self) -> None:
        of_folder = [
            "cover.jpg",
            "Folder.PNG",
            "front.jpg",
            "front-large.jpeg",
            "AlbumArt_{1}_Large.jpg",
            "a.m3u",
            "b.log",
        ]
        others = ["discover.jpg", "coverage.jpg", "frontier.jpg", "booklet.pdf", "x.txt", "Thumbs.db", "._a.log"]
        assert place.folder_companions([*of_folder, *others], AUDIO) == tuple(of_folder)
        assert place.folder_companions([*of_folder, "next.mp3"], AUDIO) == ()

    def test_companions_take_the_new_name(self) -> None:
        siblings = ["song.mp3", "song.lrc", "song.mp3.LRC", "cover.jpg", "song.jpg", "disc.cue"]
        assert place.companions_of("song.mp3", "Title (2).mp3", siblings, AUDIO) == (
            ("song.lrc", "Title (2).lrc"),
            ("song.mp3.LRC", "Title (2).mp3.LRC"),
            ("song.jpg", "Title (2).jpg"),
            ("cover.jpg", "cover.jpg"),
            ("disc.cue", "disc.cue"),
        )
        assert place.companions_of("song.mp3", "song.mp3", [*siblings, "b.mp3"], AUDIO) == (
            ("song.lrc", "song.lrc"),
            ("song.mp3.LRC", "song.mp3.LRC"),
            ("song.jpg", "song.jpg"),
        )
