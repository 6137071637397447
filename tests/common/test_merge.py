from itertools import pairwise
from pathlib import Path

import pytest

from xraygpt.common.errors import ConfigError, DataError, MissingFileError
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


@pytest.mark.parametrize("text", ["run: [1\n", "a: 1\na: 2\n", "- 1\n- 2\n", "text\n", "5\n"])
def test_what_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_yaml(file)


def test_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "binary.yaml"
    file.write_bytes(b"a: \xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.yaml: not a UTF-8 text file"):
        load_yaml(file)


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "windows.yaml"
    file.write_bytes(b"\xef\xbb\xbfrun: {seed: 1}\r\n")
    assert load_yaml(file).values == {"run": {"seed": 1}}


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing yet\n")
    assert load_yaml(file).values == {}


def test_blank_is_told_from_null(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("run:\nmodel: null\ndatasets: {a: , b: ~, c: {d: }}\n")
    assert load_yaml(file).blank == {"run", "datasets.a"}


HOSTILE = {
    "flow": ("[" * 50_000, r"nested more than 32 deep \(line 1, column 33\)"),
    "flow mappings": ('{"a": ' * 50_000, "nested more than 32 deep"),
    "blocks": ("".join(f"{' ' * depth}a:\n" for depth in range(1_000)), "nested more than 32 deep"),
    "block lists": ("- " * 50_000, "nested more than 32 deep"),
    "int": ("a: !!int x", r"tags such as !!int are not used here; remove it \(line 1, column 4\)"),
    "bool": ("a: !!bool x", "tags such as !!bool"),
    "python": ("a: !!python/object/apply:os.system [ls]", "tags such as !!python"),
    "own tag": ("a: !secret x", "tags such as !secret"),
    "long int": ("a: " + "9" * 5_000, "5000 digits"),
    "hexadecimal": ("a: 0x_", "base 16"),
    "aliases": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefgh")),
        "expan",
    ),
    "alias of itself": ("a: &a [*a]", "recursive"),
    "alias of nothing": ("a: *b", "undefined alias"),
    "twice": ("a: 1\na: 2", r"duplicate key a \(line 2, column 1\)"),
    "tab": ("a:\n\tb: 1", r"a tab; indent with spaces\) \(line 2, column 1\)"),
    "control character": ("a: \x00", "control characters"),
    "escaped NUL": (r'a: "\0"', "a NUL character"),
    "two documents": ("a: 1\n---\na: 2", "another document"),
    "key without a name": ("? [a]\n: 1", "unhashable key"),
    "null as key": ("null: 1", "key type"),
    "interpolation": ('a: "${"', "no viable alternative"),
    "deep interpolation": (f'a: "{"${" * 300}b{"}" * 300}"', "nested too deeply|no viable|ecursion"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    text, reason = HOSTILE[name]
    file = tmp_path / "hostile.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"hostile\.yaml: .*({reason})") as caught:
        merge_files([file])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "value", ["[" * 50_000, "!!int x", "9" * 5_000, "0x_", "&a [*a]", "*b", "a: 1\n---\na", "${", '"\\0"']
)
def test_hostile_options_are_refused_in_one_line(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^--options: run\.seed: cannot read .* as YAML") as caught:
        parse_options([f"run.seed={value}"])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("key", [".".join("a" * 50_000), "a b", "a[0]", "", "\x00"])
def test_options_with_no_key(key: str) -> None:
    with pytest.raises(ConfigError, match="is not a dotted key") as caught:
        parse_options([f"{key}=1"])
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "shape", ["'${{{0}}}${{{0}}}'", "{{x: '${{{0}}}', y: '${{{0}}}'}}", "'${{.{0}}}${{.{0}}}'"]
)
def test_interpolations_may_not_multiply(tmp_path: Path, shape: str) -> None:
    names = [f"a{number}" for number in range(40)]
    lines = [f"{a}: {shape.format(b)}" for a, b in pairwise(names)]
    file = tmp_path / "laughs.yaml"
    file.write_text("\n".join([*lines, f"{names[-1]}: ha"]))
    with pytest.raises(ConfigError, match=r"laughs\.yaml: the interpolations make more than"):
        merge_files([file])


def test_a_long_chain_or_a_circle_of_interpolations(tmp_path: Path) -> None:
    file = tmp_path / "chain.yaml"
    file.write_text("\n".join(f"a{number}: '${{a{number + 1}}}'" for number in range(3_000)) + "\na3000: x")
    with pytest.raises(ConfigError, match=r"chain\.yaml: .*(nested too deeply|ecursion)"):
        merge_files([file])
    file.write_text("a: '${b}'\nb: '${a}'")
    with pytest.raises(ConfigError, match=r"chain\.yaml: .*ecursi"):
        merge_files([file])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nothing\.yaml"):
        load_yaml(tmp_path / "nothing.yaml")
    with pytest.raises(MissingFileError, match=f"a folder: the configuration file {tmp_path}"):
        load_yaml(tmp_path)
