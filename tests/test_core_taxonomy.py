"""The owner's genres: finding them under any spelling, refusing contradictions, naming their folders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.errors import ConfigError
from daemon.core.taxonomy import (
    FOLDER_LIMIT_BYTES,
    STARTER_GENRES,
    Genre,
    Taxonomy,
    normal_form,
    safe_folder,
)

MANY_SCRIPTS = Taxonomy(
    [
        Genre("Hip-Hop", ("rap", "hip hop music")),
        Genre("古典", ("クラシック",)),
        Genre("Ёлка", ("новогодняя",)),
        Genre("Ελληνικά", ("Ελληνική μουσική",)),
        Genre("R&B/Soul", ("rnb",)),
    ]
)


def problems_of(*genres: Genre) -> str:
    with pytest.raises(ConfigError) as caught:
        Taxonomy(genres)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hip hop", "Hip-Hop"),
        ("HIP_HOP", "Hip-Hop"),
        ("  hip \t /  hop ", "Hip-Hop"),
        ("hip\u2010hop", "Hip-Hop"),
        ("hip\u2013hop", "Hip-Hop"),
        ("\uff28\uff29\uff30\uff0d\uff28\uff2f\uff30", "Hip-Hop"),
        ("\ufeffRap", "Hip-Hop"),
        ("Hip-Hop-Music", "Hip-Hop"),
        ("古典", "古典"),
        ("\uff78\uff97\uff7c\uff6f\uff78", "古典"),
        ("ЁЛКА", "Ёлка"),
        ("\u0435\u0308\u043b\u043a\u0430", "Ёлка"),
        ("ΕΛΛΗΝΙΚΆ", "Ελληνικά"),
        ("ελληνικη\u0301 μουσικη\u0301", "Ελληνικά"),
        ("r&b soul", "R&B/Soul"),
    ],
)
def test_a_genre_is_found_under_any_spelling(text: str, name: str) -> None:
    assert MANY_SCRIPTS.resolve(text) == name


@pytest.mark.parametrize("text", ["", " ", "-", "hiphop", "Елка", "rock", "r and b soul", "Rap, Rock"])
def test_a_text_that_is_no_name_and_no_alias_belongs_to_no_genre(text: str) -> None:
    assert MANY_SCRIPTS.resolve(text) is None


@given(st.text())
def test_the_normal_form_is_its_own_normal_form(text: str) -> None:
    assert normal_form(normal_form(text)) == normal_form(text)


@given(st.text(), st.text())
def test_separators_of_any_kind_are_alike(left: str, right: str) -> None:
    forms = {normal_form(f"{left}{between}{right}") for between in (" ", "-", "_", "/", " - ", "\u3000", "\u2014")}
    assert len(forms) == 1


@given(st.lists(st.text(), max_size=6), st.sampled_from(["upper", "lower", "title", "strip"]))
def test_every_genre_that_is_accepted_is_found_by_its_names(texts: list[str], change: str) -> None:
    try:
        taxonomy = Taxonomy(Genre(text, (f"{text} music",)) for text in texts)
    except ConfigError:
        return
    for genre in taxonomy.genres:
        assert taxonomy.resolve(genre.name) == genre.name
        assert taxonomy.resolve(genre.aliases[0]) == genre.name
        if normal_form(getattr(genre.name, change)()) == normal_form(genre.name):
            assert taxonomy.resolve(getattr(genre.name, change)()) == genre.name


def test_two_genres_of_one_name_are_refused() -> None:
    assert "'hip hop' is the name of two genres" in problems_of(Genre("Hip-Hop"), Genre("hip hop"))


def test_an_alias_that_fits_two_genres_is_refused() -> None:
    told = problems_of(Genre("rap", ("urban",)), Genre("soul", ("Urban", "RAP")))
    assert "'Urban' is already an alias of 'rap'" in told
    assert "'RAP' is already the name of 'rap'" in told


def test_a_genre_may_repeat_its_own_name_as_an_alias() -> None:
    assert Taxonomy([Genre("Hip-Hop", ("hip hop", "HipHop", "hiphop"))]).resolve("HIPHOP") == "Hip-Hop"


def test_an_unknown_parent_is_refused() -> None:
    assert "there is no genre 'Jazzz'" in problems_of(Genre("jazz"), Genre("bebop", parent="Jazzz"))


def test_parents_in_a_circle_are_refused_once_per_circle() -> None:
    told = problems_of(
        Genre("a", parent="b"), Genre("b", parent="c"), Genre("c", parent="b"), Genre("d", parent="d"), Genre("e")
    )
    assert told.count("circle") == 2
    assert "b > c > b" in told
    assert "d > d" in told


def test_every_flaw_is_listed_at_once() -> None:
    told = problems_of(Genre("a", parent="zz"), Genre("A"), Genre("b", ("a",)), Genre(""), Genre("c", folder="x/y"))
    assert len(told.splitlines()) == 5


@pytest.mark.parametrize(
    "name", ["", "  ", "-", " jazz", "jazz\n", "ja\x00zz", "80", "2", "(17)", "(RX)x", "CR", "\ud800"]
)
def test_a_name_that_a_tag_cannot_hold_is_refused(name: str) -> None:
    assert problems_of(Genre(name))


def test_digits_are_fine_as_an_alias_and_within_a_name() -> None:
    taxonomy = Taxonomy([Genre("80s", ("80", "1980s"))])
    assert taxonomy.resolve("80") == "80s"


def test_parents_carry_the_exact_name_of_their_genre() -> None:
    taxonomy = Taxonomy([Genre("Techno", parent="electronica"), Genre("Electronic", ("Electronica",))])
    assert taxonomy.genre("Techno").parent == "Electronic"


def test_labels_of_a_model_are_mapped_by_name_or_alias() -> None:
    labels = ["hip hop", "Ёлка", "polka"]
    assert MANY_SCRIPTS.mapping(labels) == {"hip hop": "Hip-Hop", "Ёлка": "Ёлка", "polka": None}
    assert MANY_SCRIPTS.unmapped(labels) == ("polka",)


def test_the_hash_ignores_order_and_spelling_of_aliases_but_not_meaning() -> None:
    base = Taxonomy([Genre("a", ("Hip-Hop",)), Genre("b", parent="a")])
    assert base.hash() == Taxonomy([Genre("b", parent="A", folder="B", threshold=0.5), Genre("a", ("hip hop",))]).hash()
    others = [
        [Genre("a", ("Hip-Hop",)), Genre("b")],
        [Genre("a"), Genre("b", parent="a")],
        [Genre("a", ("Hip-Hop",)), Genre("B", parent="a")],
    ]
    assert len({base.hash(), *(Taxonomy(genres).hash() for genres in others)}) == 4


def test_the_starter_genres_are_found_in_many_languages() -> None:
    taxonomy = Taxonomy(STARTER_GENRES)
    assert taxonomy.names == ("classical", "electronic", "jazz", "pop", "rock")
    texts = ["古典音樂", "Música Electrónica", "爵士樂", "Поп-музыка", "ロック", "KLASSIK", "musique classique"]
    found = ["classical", "electronic", "jazz", "pop", "rock", "classical", "classical"]
    assert [taxonomy.resolve(text) for text in texts] == found


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("jazz", "jazz"),
        ("R&B/Soul", "R&B_Soul"),
        ('<>:"/\\|?*', "_________"),
        ("..", "_"),
        (".", "_"),
        (".hidden", "_hidden"),
        ("Vol. 2...", "Vol. 2"),
        ("con", "_con"),
        ("aux.x", "_aux.x"),
        ("古典", "古典"),
        ("Cafe\u0301", "Caf\u00e9"),
    ],
)
def test_a_folder_name_is_safe_on_every_file_system(name: str, folder: str) -> None:
    assert safe_folder(name) == folder


@given(st.text(alphabet=st.characters()) | st.text(alphabet="./ con古", max_size=300))
def test_a_folder_name_is_one_component_and_stays_the_same_when_made_safe_again(text: str) -> None:
    folder = safe_folder(text)
    assert folder not in {"", ".", ".."}
    assert not set(folder) & set('<>:"/\\|?*\0')
    assert len(folder.encode()) <= FOLDER_LIMIT_BYTES
    assert not folder.endswith((".", " "))
    assert safe_folder(folder) == folder


def test_a_genre_has_the_folder_it_names_or_a_safe_one() -> None:
    taxonomy = Taxonomy([Genre("AC/DC"), Genre("古典", folder="Classical")])
    assert taxonomy.folder_of("AC/DC") == "AC_DC"
    assert taxonomy.folder_of("古典") == "Classical"


def test_two_genres_never_share_a_folder() -> None:
    assert "'ROCK' is already the folder of 'rock'" in problems_of(Genre("rock"), Genre("metal", folder="ROCK"))
    assert problems_of(Genre("a:b"), Genre("a?b"))


def test_an_unsafe_folder_is_refused_with_a_safe_one_proposed() -> None:
    assert "try 'a_b'" in problems_of(Genre("x", folder="a/b"))
