"""The config: whole or refused, with every mistake named at its line."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.core import config
from daemon.core.config import Config
from daemon.core.config_file import SIZE_LIMIT_BYTES
from daemon.core.errors import ConfigError
from daemon.core.taxonomy import STARTER_GENRES, Taxonomy

SHIPPED = Path(__file__).parent.parent / "config.yaml"
HOME = Path("/home/owner")


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "some.yaml")
    assert caught.value.source == "some.yaml"
    return caught.value.problems


def only_problem_of(text: str) -> str:
    problems = problems_of(text)
    assert len(problems) == 1, problems
    return problems[0]


def keys_of(node: object) -> set[str]:
    """Every key that a JSON schema allows, at any depth."""
    if isinstance(node, list):
        return set(itertools.chain.from_iterable(keys_of(item) for item in node))
    if not isinstance(node, dict):
        return set()
    return set(node.get("properties", {})) | set(itertools.chain.from_iterable(keys_of(item) for item in node.values()))


def test_the_shipped_file_is_the_default() -> None:
    assert config.load(SHIPPED) == config.default()


def test_the_shipped_file_shows_every_key() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    missing = {key for key in keys_of(config.json_schema()) if not re.search(rf"\b{key}\b", text)}
    assert missing == set()


def test_every_key_says_what_it_is_for() -> None:
    schema = config.json_schema()
    for group in (schema, *schema["$defs"].values()):
        assert group["description"]
        for key, value in group.get("properties", {}).items():
            assert value.get("description") or "$ref" in value, key


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "---\n", "settle:\nroots:\ntaxonomy:\n", "{}", "\ufeff"])
def test_an_empty_file_or_section_means_the_defaults(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    assert config.load(file) == config.default()


def test_a_full_config_is_read() -> None:
    found = config.parse(
        """
roots:
  - path: /srv//music/
    watch: off
    mode: dry-run
    ignore: ["*.tmp"]
  - {path: "/srv/電影 音樂", poll_interval_s: 5}
taxonomy:
  - {name: 古典, aliases: [classical], folder: Classical, threshold: 0.8}
  - {name: "no", parent: 古典}
tagging: {inside: replace, outside: append, missing: leave, keep_mtime: false, id3_v23_separator: "; "}
models: {directory: /srv/models, bundle: starter, segments: 3, threads: 2, device: cpu}
thresholds: {default: 0.75}
logging: {level: debug, format: json}
queue: {retry_s: 1, max_attempts: 1, lease_s: 10}
state_directory: /var/lib/x
""",
        "some.yaml",
    )
    assert found.roots[0].path == Path("/srv/music")
    assert (found.roots[0].watch, found.roots[0].mode) == (config.Watch.OFF, config.Mode.DRY_RUN)
    assert found.roots[1].poll_interval_s == 5.0
    assert found.build_taxonomy().names == ("古典", "no")
    assert found.build_taxonomy().genre("古典").threshold == 0.8
    assert (found.tagging.outside, found.tagging.keep_mtime) == (config.Outside.APPEND, False)
    assert (found.models.segments, found.thresholds.default) == (3, 0.75)


def test_a_leading_tilde_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(HOME))
    found = config.parse("roots: [{path: ~/Music}]\nmodels: {bundle: ~/b}", "some.yaml")
    assert (found.roots[0].path, found.models.bundle) == (HOME / "Music", str(HOME / "b"))


def test_a_config_cannot_be_changed_and_equals_its_like() -> None:
    one, other = (config.parse("settle: {quiet_s: 7}", name) for name in ("a", "b"))
    assert one == other != config.default()
    with pytest.raises(ValueError, match="frozen"):
        one.settle = other.settle  # type: ignore[misc]


def test_the_default_taxonomy_is_the_starters() -> None:
    assert config.default().build_taxonomy() == Taxonomy(STARTER_GENRES)


def test_every_problem_is_listed_at_once_in_order_of_lines() -> None:
    problems = problems_of(
        """\
roots:
  - path: /srv/music
    watc: poll
  - mode: apply
  - path: /srv/music/in
settle:
  quiet_s: -1
  quiet_s: 4
settel: 3
models: {segments: 65, device: gpu}
taxonomy:
  - name: jazz
  - name: bebop
    aliases: [jazz]
    parent: swing
"""
    )
    assert problems == [
        "line 3: roots[0].watc: unknown key, did you mean 'watch'?",
        "line 4: roots[1].path: is missing",
        "line 5: roots[2].path: /srv/music/in lies within /srv/music, which is listed too: "
        "a file must belong to one root",
        "line 7: settle.quiet_s: must be > 0 (got -1)",
        "line 8: settle.quiet_s: given twice (first on line 7)",
        "line 9: settel: unknown key, did you mean 'settle'?",
        "line 10: models.device: must be auto, cpu or cuda (got gpu)",
        "line 10: models.segments: must be at most 64 (got 65)",
        "line 14: taxonomy[1].aliases[0]: 'jazz' is already the name of 'jazz', so it would be ambiguous",
        "line 15: taxonomy[1].parent: there is no genre 'swing'",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("settle: {quiet_s: fast}", "settle.quiet_s: must be a number (got fast)"),
        ("settle: {quiet_s: '3'}", "settle.quiet_s: must be a number (got 3)"),
        ("settle: {quiet_s: true}", "settle.quiet_s: must be a number (got true)"),
        ("settle: {quiet_s: .nan}", "settle.quiet_s: must be a finite number (got .nan)"),
        ("settle: {quiet_s: }", "settle.quiet_s: must be a number (got nothing)"),
        ("settle: [3]", "settle: must be a group of keys (got a list)"),
        ("rescan: {interval_s: 1000000}", "rescan.interval_s: must be at most 604800 (got 1000000)"),
        ("queue: {max_attempts: 2.5}", "queue.max_attempts: must be a whole number (got 2.5)"),
        ("tagging: {keep_mtime: 1}", "tagging.keep_mtime: must be true or false (got 1)"),
        ("tagging: {id3_v23_separator: ''}", "must have at least 1 character(s) (got empty text)"),
        ('tagging: {id3_v23_separator: "\\0"}', "must not hold control characters"),
        ("roots: /srv/music", "roots: must be a list"),
        ("roots: [/srv/music]", "roots[0]: must be a group of keys (got /srv/music)"),
        ("roots: [{path: music}]", "must be an absolute path, or one that starts with ~ (got music)"),
        ("roots: [{path: /srv/../etc}]", "without '..'"),
        ('roots: [{path: "/a\\0b"}]', "control characters"),
        ("roots: [{path: 7}]", 'YAML reads 7 as a number: write it in quotes: "7"'),
        ("roots: [{path: /}]", "not the whole file system"),
        ("roots: [{path: /a}, {path: /a/}]", "/a is listed twice"),
        ("roots: [{path: /a/b}, {path: /a}]", "roots[1].path: /a/b lies within /a"),
        ("roots: [{path: /a, ignore: ['']}]", "roots[0].ignore[0]: must have at least 1 character(s)"),
        ("thresholds: {default: 1.5}", "thresholds.default: must be auto, or a number from 0 to 1 (got 1.5)"),
        ("thresholds: {default: true}", "must be auto, or a number from 0 to 1"),
        ("models: {bundle: ../x}", "models.bundle: must be an absolute path"),
        ("models: {bundle: ' '}", "models.bundle: must be auto, starter"),
        ("taxonomy: []", "taxonomy: must hold at least 1 item(s)"),
        ("taxonomy: [jazz]", "taxonomy[0]: must be a group of keys (got jazz)"),
        ("taxonomy: [{name: R&B/Soul}]", "set another"),
        ("tagging: {id3_v23_separator: a}", "line 1: tagging.id3_v23_separator: the genre 'classical' contains"),
        ("organise: {template: '{genre}/../{name}'}", "organise.template"),
        ("organise: {wait_s: -1}", "organise.wait_s"),
        ("night: {enabled: true}", "training at night is not in this version yet"),
        ("web: {enabled: true}", "the web page is not in this version yet"),
        ("web: {enabled: maybe}", "web.enabled: must be false (got maybe)"),
        ("web: {port: 80}", "web.port: unknown key"),
        ("roots: [{path: /a, organize: true}]", "roots[0].organize: unknown key"),
        ("hello", "line 1: must be a group of keys (got hello)"),
        ("? [a]\n: b", "line 1: a key must be a single word"),
        ("settle: !!python/object:os.system {}", "are not used here"),
        ("logging: {level: !loud info}", "tags (!loud) are not used here"),
    ],
)
def test_a_mistake_is_told_in_plain_words(text: str, told: str) -> None:
    assert told in " / ".join(problems_of(text))


@pytest.mark.parametrize("name", ["no", "on", "80", "1.5", "12:30", "~", "null", "0x1f"])
def test_a_genre_that_yaml_does_not_read_as_text_is_to_be_quoted(name: str) -> None:
    problems = problems_of(f"taxonomy:\n  - name: jazz\n  - name: {name}\n")
    assert any(problem.startswith("line 3:") and f'write it in quotes: "{name}"' in problem for problem in problems)


@pytest.mark.parametrize("name", ["'no'", '"1.5"', "2024-01-01", "2024-99-99", "1e3", "=", "80s"])
def test_a_genre_that_only_looks_odd_is_taken_as_written(name: str) -> None:
    found = config.parse(f"taxonomy: [{{name: {name}}}]", "some.yaml")
    assert found.taxonomy[0].name == name.strip("'\"")


def test_a_genre_of_digits_is_refused_even_in_quotes() -> None:
    """MP3 readers show the genre "80" as "Folk", which would come back as a correction by the owner."""
    assert "'80' cannot be a genre's name" in only_problem_of('taxonomy: [{name: "80"}]')


def test_characters_escaped_as_json_does_are_whole() -> None:
    found = config.parse(r'taxonomy: [{name: "\ud83c\udfb7 jazz"}]', "some.yaml")
    assert found.taxonomy[0].name == "\U0001f3b7 jazz"


def test_patience_shorter_than_quiet_is_refused_at_the_line_that_says_so() -> None:
    told = "patience_s (10) must be at least quiet_s (20)"
    assert only_problem_of("settle:\n  quiet_s: 20\n  patience_s: 10") == f"line 3: settle.patience_s: {told}"
    told = "patience_s (900) must be at least quiet_s (1000)"
    assert only_problem_of("settle:\n  quiet_s: 1000") == f"line 2: settle.quiet_s: {told}"


def test_disagreements_are_refused_without_a_file_too() -> None:
    with pytest.raises(ValueError, match="must be at least quiet_s"):
        Config.model_validate({"settle": {"quiet_s": 5, "patience_s": 2}})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("settle:\n  quiet_s: [1,\nroots: 2", 3),
        ("roots:\n\t- path: /a", 2),
        ("roots: 'a\n", 2),
        ("a: b\n---\nc: d", 2),
        ("# x\n\x07", 2),
        ('roots:\n  - path: "/\\ud800"', 2),
        ("roots: &all []\n", 1),
        ("queue:\n  retry_s: *all\n", 2),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, line: int) -> None:
    assert only_problem_of(text).startswith(f"line {line}: ")


def test_a_small_file_cannot_become_a_huge_one() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{new}: &{new} [*{old}, *{old}]\n" for old, new in itertools.pairwise("abcdefghi")
    )
    assert "anchors (&) and aliases (*) are not used here" in only_problem_of(bomb)
    assert "nested too deeply" in only_problem_of("[" * 5000)


def test_a_problem_never_shows_a_whole_file() -> None:
    assert len(only_problem_of("logging: {level: " + "x" * 5000 + "}")) < 200


def test_a_problem_is_one_printable_line() -> None:
    assert only_problem_of('"a\\nb\\e": 1').startswith("line 1: a\\nb\\x1b: unknown key")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"settle:\n  # caf\xe9\n", "line 2: not UTF-8 text"),
        ("settle: {}".encode("utf-16"), "line 1: not UTF-8 text"),
        (b"#" * (SIZE_LIMIT_BYTES + 1), "larger than 256 KiB"),
    ],
)
def test_a_file_that_is_no_config_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        config.load(file)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "nul\0", tmp_path / "absent" / "x"):
        with pytest.raises(ConfigError, match="cannot be read"):
            config.load(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("jazz") | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(sorted(keys_of(config.json_schema()))) | st.text(max_size=3), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def refuses_or_reads(text: str) -> None:
    try:
        found = config.parse(text, "some.yaml")
    except ConfigError as error:
        assert error.problems
        assert all(re.match(r"line \d+: |not YAML", problem) for problem in error.problems)
    else:
        found.build_taxonomy()


@given(st.text())
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    refuses_or_reads(text)


@given(st.text(alphabet="ab: -[]{}&*!?|>'\"\n\t#,%@0.=<~", max_size=40))
def test_no_yaml_like_text_raises_anything_but_a_config_error(text: str) -> None:
    refuses_or_reads(text)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(Config.model_fields)), VALUES, max_size=3))
def test_no_values_raise_anything_but_a_config_error(data: dict[str, Any]) -> None:
    refuses_or_reads(yaml.safe_dump(data, allow_unicode=True))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(st.data())
def test_no_wrong_value_under_a_real_key_raises_anything_but_a_config_error(data: st.DataObject) -> None:
    whole = config.parse(
        "roots: [{path: /srv/music, ignore: [x]}]\ntaxonomy: [{name: a, aliases: [b]}, {name: c, parent: a}]",
        "some.yaml",
    ).model_dump(mode="json")
    group: Any = whole
    while True:
        key = data.draw(st.sampled_from(sorted(group) if isinstance(group, dict) else list(range(len(group)))))
        if not isinstance(group[key], (dict, list)) or not group[key] or data.draw(st.booleans()):
            break
        group = group[key]
    group[key] = data.draw(VALUES)
    refuses_or_reads(yaml.safe_dump(whole))


def test_the_schema_is_one_that_editors_understand() -> None:
    schema = config.json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "Music Reclass config"
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Settle"]["properties"]["quiet_s"]["exclusiveMinimum"] == 0
    assert schema["$defs"]["Night"]["properties"]["enabled"]["const"] is False
    assert json.loads(json.dumps(schema)) == schema


def test_the_config_file_is_looked_for_in_order(tmp_path: Path) -> None:
    home, checkout, system = tmp_path / "home", tmp_path / "checkout", tmp_path / "etc" / "config.yaml"
    user, xdg = home / ".config/music-reclass/config.yaml", tmp_path / "xdg/music-reclass/config.yaml"
    named = tmp_path / "named.yaml"
    env: dict[str, str] = {}
    assert config.find(None, env, home, checkout, system) is None
    for path in (checkout / "config.yaml", system, user, xdg, named):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        env |= {"XDG_CONFIG_HOME": str(tmp_path / "xdg")} if path == xdg else {}
        env |= {"MUSIC_RECLASS_CONFIG": str(named)} if path == named else {}
        assert config.find(None, env, home, checkout, system) == path
    assert config.find(user, env, home, checkout, system) == user


def test_a_config_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    absent = tmp_path / "absent.yaml"
    with pytest.raises(ConfigError, match="named on the command line"):
        config.find(absent, {}, tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=r"named by \$MUSIC_RECLASS_CONFIG"):
        config.find(None, {"MUSIC_RECLASS_CONFIG": str(absent)}, tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, HOME / ".local/state/music-reclass"),
        ({"XDG_STATE_HOME": "/xdg"}, Path("/xdg/music-reclass")),
        ({"XDG_STATE_HOME": "relative"}, HOME / ".local/state/music-reclass"),
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/xdg"}, Path("/var/lib/a")),
    ],
)
def test_the_state_directory_comes_from_the_environment(env: dict[str, str], expected: Path) -> None:
    assert config.state_directory(config.default(), env, HOME) == expected
    assert config.models_directory(config.default(), expected) == expected / "models"


def test_the_config_outranks_the_environment() -> None:
    found = config.parse("state_directory: /srv/state\nmodels: {directory: /srv/models}", "some.yaml")
    assert config.state_directory(found, {"STATE_DIRECTORY": "/var/lib/a"}, HOME) == Path("/srv/state")
    assert config.models_directory(found, Path("/srv/state")) == Path("/srv/models")
