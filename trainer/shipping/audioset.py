"""AudioSet's music genres: which of its 527 classes they are, and which of them a bundle is given. Plain data.

From the AudioSet ontology (Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events", ICASSP
2017; CC BY 4.0): the children of "Music genre", and of those children what has labels of its own. Indices are those of
the published class list, which every AudioSet checkpoint follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon.core.taxonomy import Taxonomy

CLASSES = 527


@dataclass(frozen=True, slots=True)
class AudioSetGenre:
    """One class: its place in the list, its name there, and the index of the genre that it is a part of, if any."""

    index: int
    name: str
    parent: int | None = None


GENRES: tuple[AudioSetGenre, ...] = (
    AudioSetGenre(216, "Pop music"),
    AudioSetGenre(217, "Hip hop music"),
    AudioSetGenre(219, "Rock music"),
    AudioSetGenre(226, "Rhythm and blues"),
    AudioSetGenre(227, "Soul music"),
    AudioSetGenre(228, "Reggae"),
    AudioSetGenre(229, "Country"),
    AudioSetGenre(232, "Funk"),
    AudioSetGenre(233, "Folk music"),
    AudioSetGenre(234, "Middle Eastern music"),
    AudioSetGenre(235, "Jazz"),
    AudioSetGenre(236, "Disco"),
    AudioSetGenre(237, "Classical music"),
    AudioSetGenre(239, "Electronic music"),
    AudioSetGenre(248, "Music of Latin America"),
    AudioSetGenre(251, "Blues"),
    AudioSetGenre(252, "Music for children"),
    AudioSetGenre(253, "New-age music"),
    AudioSetGenre(254, "Vocal music"),
    AudioSetGenre(256, "Music of Africa"),
    AudioSetGenre(258, "Christian music"),
    AudioSetGenre(260, "Music of Asia"),
    AudioSetGenre(263, "Ska"),
    AudioSetGenre(264, "Traditional music"),
    AudioSetGenre(265, "Independent music"),
)
"""The children of "Music genre", in the order of the class list."""

SUBGENRES: tuple[AudioSetGenre, ...] = (
    AudioSetGenre(220, "Heavy metal", 219),
    AudioSetGenre(221, "Punk rock", 219),
    AudioSetGenre(222, "Grunge", 219),
    AudioSetGenre(223, "Progressive rock", 219),
    AudioSetGenre(224, "Rock and roll", 219),
    AudioSetGenre(225, "Psychedelic rock", 219),
    AudioSetGenre(230, "Swing music", 229),
    AudioSetGenre(231, "Bluegrass", 229),
    AudioSetGenre(238, "Opera", 237),
    AudioSetGenre(240, "House music", 239),
    AudioSetGenre(241, "Techno", 239),
    AudioSetGenre(242, "Dubstep", 239),
    AudioSetGenre(243, "Drum and bass", 239),
    AudioSetGenre(244, "Electronica", 239),
    AudioSetGenre(245, "Electronic dance music", 239),
    AudioSetGenre(246, "Ambient music", 239),
    AudioSetGenre(247, "Trance music", 239),
    AudioSetGenre(249, "Salsa music", 248),
    AudioSetGenre(250, "Flamenco", 248),
    AudioSetGenre(255, "A capella", 254),
    AudioSetGenre(257, "Afrobeat", 256),
    AudioSetGenre(259, "Gospel music", 258),
    AudioSetGenre(261, "Carnatic music", 260),
    AudioSetGenre(262, "Music of Bollywood", 260),
)
"""What is part of one of them; without beatboxing (218), which is a way of making sounds."""


def labels_for(taxonomy: Taxonomy | None) -> dict[str, AudioSetGenre]:
    """The labels that a bundle gets for this owner, by index: every genre, and the subgenres that the owner names.

    A subgenre that the owner has no name for would take its share of the probability from the genre it belongs to.
    """
    genres = {genre.index: genre for genre in GENRES}
    named = [part for part in SUBGENRES if _is_named_apart(part, genres[part.parent or 0], taxonomy)]
    return {_label(genre, taxonomy): genre for genre in sorted([*GENRES, *named], key=lambda genre: genre.index)}


def _is_named_apart(part: AudioSetGenre, whole: AudioSetGenre, taxonomy: Taxonomy | None) -> bool:
    if taxonomy is None:
        return False
    name = taxonomy.resolve(_label(part, taxonomy))
    return name is not None and name != taxonomy.resolve(_label(whole, taxonomy))


def _label(genre: AudioSetGenre, taxonomy: Taxonomy | None) -> str:
    """The name as the owner has it, with "music" or without: few would write "Rock music" into a tag."""
    short = genre.name.removesuffix(" music")
    if taxonomy is not None and taxonomy.resolve(short) is None and taxonomy.resolve(genre.name) is not None:
        return genre.name
    return short
