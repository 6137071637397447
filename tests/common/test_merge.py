from pathlib import Path

import pytest

from xraygpt.common.errors import ConfigError, MissingFileError
from xraygpt.common.merge import load_yaml, merge_files, parse_options


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    low, high = tmp_path / "low.yaml", tmp_path / "high.yaml"
    low.write_text("model: {nested: {a: 1, b: [1, 2, 3]}, size: 56}\nrun: {seed: 1}\n")
    high.write_text("model: {nested: {b: [9], c: new}}\nrun: {init_lr: 3e-5}\n")
    return [low, high]


def test_mappings_are_merged_and_lists_replaced(files: list[Path]) -> None:
    assert merge_files(files) == {
        "model": {"nested": {"a": 1, "b": [9], "c": "new"}, "size": 56},
        "run": {"seed": 1, "init_lr": 3e-5},
    }


def test_options_rank_highest(files: list[Path]) -> None:
    merged = merge_files(files, ["model.nested.c=old", "run.seed", "7"])
    assert merged["model"]["nested"]["c"] == "old"
    assert merged["run"]["seed"] == 7


@pytest.mark.parametrize(
    "words",
    [
        ["run.max_epoch=5", "model.max_txt_len=88"],
        ["run.max_epoch", "5", "model.max_txt_len", "88"],
        ["run.max_epoch=5", "model.max_txt_len", "88"],
        ["run.max_epoch", "5", "model.max_txt_len=88"],
    ],
)
def test_both_forms_of_options_and_their_mixture(words: list[str]) -> None:
    assert parse_options(words).values == {"run": {"max_epoch": 5}, "model": {"max_txt_len": 88}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("null", None),
        ("1e-3", 1e-3),
        ("false", False),
        ("[1,2]", [1, 2]),
        ("{a: 1, b: x}", {"a": 1, "b": "x"}),
        ("out/a b", "out/a b"),
        ("x=y", "x=y"),
        ("'###'", "###"),
        ("'###Patient: {} ###Doctor: '", "###Patient: {} ###Doctor: "),
    ],
)
def test_option_values_are_yaml(text: str, value: object) -> None:
    assert parse_options([f"run.key={text}"]).values == {"run": {"key": value}}


def test_no_options() -> None:
    assert parse_options(None).values == {}


def test_problems_of_options_are_collected() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(["run..seed=1", "model.end_sym=###", "run.a=[1", "run.b"])
    problems = caught.value.problems
    assert [problem.split(":")[0] for problem in problems] == ["--options"] * 4
    assert "'run..seed' is not a dotted key" in problems[0]
    assert "for a comment" in problems[1]
    assert """"model.end_sym='###'\"""" in problems[1]
    assert "cannot read '[1' as YAML" in problems[2]
    assert "'run.b' has no value" in problems[3]


def test_interpolation(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: {image_size: 56}\nrun: {size: '${model.image_size}'}\n")
    assert merge_files([file])["run"]["size"] == 56
    assert merge_files([file], ["model.image_size=64"])["run"]["size"] == 64


def test_interpolation_that_leads_nowhere_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("run: {size: '${model.nothing}'}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml.*model\.nothing"):
        merge_files([file])


@pytest.mark.parametrize("text", ["run: [1\n", "a: 1\na: 2\n", "- 1\n- 2\n"])
def test_what_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_yaml(file)


def test_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "binary.yaml"
    file.write_bytes(b"a: \xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        load_yaml(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nothing\.yaml"):
        load_yaml(tmp_path / "nothing.yaml")
