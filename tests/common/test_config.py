"""`Config` on small stand-ins for the registered classes, so that a mistake here is a mistake in `Config`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from xraygpt.common import config as config_module
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError, MissingFileError
from xraygpt.common.registry import Registry, Table

MODEL_DEFAULTS = """
model: {arch: toy, image_size: 56, precise: true}
preprocess:
  vis_processor:
    train: {name: crop, image_size: 56}
    eval: {name: crop, image_size: 56, random: false}
"""
ALTERNATIVE = "model: {image_size: 99}"
DATASET_DEFAULTS = "datasets: {xrays: {build_info: {storage: default/place}}}"
USER = """
model: {arch: toy, model_type: small, end_sym: "###"}
datasets:
  xrays:
    vis_processor:
      train: {name: crop, image_size: 64}
    sample_ratio: 3
run: {task: train, init_lr: 3e-5}
"""


@dataclass
class ToyModelConfig:
    image_size: int = 224
    precise: bool = False
    end_sym: str = "\n"
    ckpt: str | None = None


@dataclass
class BuildInfo:
    storage: str


@dataclass
class ToyDatasetConfig:
    build_info: BuildInfo
    vis_processor: dict[str, Any] = field(default_factory=dict)
    text_processor: dict[str, Any] = field(default_factory=dict)
    sample_ratio: float = 1.0


@dataclass
class ToyRunConfig:
    output_dir: str
    task: str = "train"
    lr_sched: str = "cosine"
    init_lr: float = 1e-4
    max_epoch: int = 1

    def __post_init__(self) -> None:
        if self.max_epoch < 1:
            raise ValueError(f"max_epoch must be at least 1, got {self.max_epoch}")


@dataclass
class ToyTaskConfig:
    metrics: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if "bad" in self.metrics:
            raise ValueError("metrics must not be bad")


@dataclass
class ToySearchConfig:
    k_test: int = 128


@dataclass
class CropConfig:
    image_size: int = 224
    random: bool = True


@pytest.fixture(autouse=True)
def toy_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    toys = Registry()
    for table in vars(toys).values():
        if isinstance(table, Table):
            table.package = "xraygpt.common"
    models = {"small": "small.yaml", "other": "other.yaml"}
    toys.register_model("toy")(
        type(
            "Toy",
            (),
            {
                "config_class": ToyModelConfig,
                "PRETRAINED_MODEL_CONFIG_DICT": models,
                "MODEL_TYPE_REQUIRED": True,
            },
        )
    )
    toys.register_builder("xrays")(
        type(
            "Xrays", (), {"config_class": ToyDatasetConfig, "DATASET_CONFIG_DICT": {"default": "xrays.yaml"}}
        )
    )
    toys.register_builder("more")(
        type("More", (), {"config_class": ToyDatasetConfig, "DATASET_CONFIG_DICT": {"default": "more.yaml"}})
    )
    toys.register_runner("runner_base")(type("Runner", (), {"config_class": ToyRunConfig}))
    toys.register_processor("crop")(type("Crop", (), {"config_class": CropConfig}))
    toys.register_task("train")(type("Train", (), {"config_class": ToyTaskConfig}))
    toys.register_task("search")(type("Search", (), {"config_class": ToySearchConfig}))
    toys.register_lr_scheduler("cosine")(type("Cosine", (), {}))
    monkeypatch.setattr(config_module, "registry", toys)
    monkeypatch.setattr(config_module, "package_root", lambda: tmp_path)
    (tmp_path / "small.yaml").write_text(MODEL_DEFAULTS)
    (tmp_path / "other.yaml").write_text(ALTERNATIVE)
    (tmp_path / "xrays.yaml").write_text(DATASET_DEFAULTS)
    (tmp_path / "more.yaml").write_text("")
    monkeypatch.chdir(tmp_path)


def make(text: str = USER, *options: str) -> Config:
    Path("user.yaml").write_text(text)
    return Config(argparse.Namespace(cfg_path="user.yaml", options=list(options) or None))


def problems(text: str = USER, *options: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        make(text, *options)
    return caught.value.problems


def test_every_layer_is_there() -> None:
    cfg = make(USER, "run.max_epoch=5")
    assert cfg.model_cfg == ToyModelConfig(image_size=56, precise=True, end_sym="###")
    assert cfg.datasets_cfg["xrays"].build_info == BuildInfo("default/place")
    assert cfg.datasets_cfg["xrays"].sample_ratio == 3.0
    assert cfg.run_cfg == ToyRunConfig(output_dir="output/user", init_lr=3e-5, max_epoch=5)


def test_rank_of_the_layers() -> None:
    text = USER.replace("model_type: small", "model_type: small, image_size: 60")
    assert make(text).model_cfg.image_size == 60
    assert make(text, "model.image_size=64").model_cfg.image_size == 64


def test_model_type_given_as_an_option_chooses_the_default_file() -> None:
    assert make(USER, "model.model_type=other").model_cfg.image_size == 99


TRAIN_64 = {"name": "crop", "image_size": 64, "random": True}
EVAL_56 = {"name": "crop", "image_size": 56, "random": False}


def test_a_processor_for_training_decides_about_evaluation_too() -> None:
    assert make().datasets_cfg["xrays"].vis_processor == {"train": TRAIN_64}
    Path("xrays.yaml").write_text(
        DATASET_DEFAULTS.replace("}}}", "}, vis_processor: {eval: {name: crop, image_size: 32}}}}")
    )
    assert make().datasets_cfg["xrays"].vis_processor == {"train": TRAIN_64}


def test_processors_of_the_model_fill_what_the_user_leaves_open() -> None:
    text = USER.replace("train: {name: crop, image_size: 64}", "eval: {name: crop, image_size: 64}")
    assert make(text).datasets_cfg["xrays"].vis_processor == {
        "train": {"name": "crop", "image_size": 56, "random": True},
        "eval": TRAIN_64,
    }
    text = USER.replace("    vis_processor:\n      train: {name: crop, image_size: 64}\n", "")
    assert make(text).datasets_cfg["xrays"].vis_processor["eval"] == EVAL_56


def test_preprocess_stays_at_the_top_level() -> None:
    cfg = make()
    assert set(cfg.to_dict()) == {"run", "model", "datasets", "preprocess"}
    assert cfg.preprocess_cfg["vis_processor"]["train"] == {"name": "crop", "image_size": 56, "random": True}


def test_to_dict_read_again_is_the_same_configuration() -> None:
    first = make(USER, "run.max_epoch=5")
    second = make(yaml.safe_dump(first.to_dict()))
    assert second.to_dict() == first.to_dict()
    assert second.run_cfg == first.run_cfg


def test_empty_sections_hold_the_defaults() -> None:
    cfg = make("model: {arch: toy, model_type: small}\ndatasets:\n  xrays:\nrun:\n")
    assert cfg.run_cfg == ToyRunConfig(output_dir="output/user")
    assert cfg.datasets_cfg["xrays"].build_info.storage == "default/place"


def test_null_takes_a_data_set_away() -> None:
    two = USER.replace("datasets:\n", "datasets:\n  more: {build_info: {storage: x}}\n")
    assert set(make(two).datasets_cfg) == {"xrays", "more"}
    assert set(make(two, "datasets.xrays=null").datasets_cfg) == {"more"}
    assert set(make(two.replace("more: {build_info: {storage: x}}", "more: null")).datasets_cfg) == {"xrays"}
    left = make(two, "datasets.xrays=null", "datasets.more", "null")
    assert left.datasets_cfg == left.to_dict()["datasets"] == {}
    assert make(two, "datasets=null").datasets_cfg == {}
    again = make(
        two.replace("more: {build_info: {storage: x}}", "more: ~"), "datasets.more.build_info.storage=y"
    )
    assert again.datasets_cfg["more"].build_info == BuildInfo("y")


def test_an_interpolation_may_name_a_default_and_choose_the_model() -> None:
    text = USER.replace("init_lr: 3e-5", "output_dir: 'out/${model.image_size}', max_epoch: '${size.epochs}'")
    text = text.replace("model_type: small", "model_type: '${run.task}'")
    cfg = make(
        text.replace("${run.task}", "small").replace("${size.epochs}", "${datasets.xrays.sample_ratio}")
    )
    assert cfg.run_cfg.output_dir == "out/56"
    assert cfg.run_cfg.max_epoch == 3
    found = problems(text, "run.task=medium")
    assert [problem.split(";")[0] for problem in found] == [
        "model.model_type: toy has no type 'medium'. Known: other, small. (user.yaml)"
    ]
    assert problems(text.replace("arch: toy", "arch: '${model.nothing}'"))[0].startswith(
        "model.arch: no model is called '${model.nothing}'"
    )


@pytest.mark.parametrize("old", ["arch: toy, model_type: small, ", "xrays:"])
def test_what_chooses_the_defaults_is_reported_before_an_interpolation_into_them(old: str) -> None:
    text = USER.replace(
        "init_lr: 3e-5", "output_dir: '${datasets.xrays.build_info.storage}/${model.image_size}'"
    )
    assert make(text).run_cfg.output_dir == "default/place/56"
    (problem,) = problems(text.replace(old, old.replace("xrays", "xray") if "xrays" in old else ""))
    assert problem.startswith(("model.arch: missing", "datasets.xray: no dataset is called 'xray'"))


def test_no_data_sets_at_all() -> None:
    assert make("model: {arch: toy, model_type: small}").datasets_cfg == {}


def test_all_problems_at_once_each_with_its_source() -> None:
    text = USER.replace("precise", "x").replace("init_lr: 3e-5", "init_lr: abc").replace("end_sym", "end_sim")
    text = text.replace("name: crop, image_size: 64", "name: crap")
    Path("xrays.yaml").write_text("datasets: {xrays: {build_info: {storag: a}}}")
    assert sorted(problems(text + "runs: {}\n", "run.max_epochs=3", "model.image_size=big")) == [
        "datasets.xrays.build_info.storag: unknown key; did you mean 'storage'? (xraygpt/xrays.yaml)",
        "datasets.xrays.build_info.storage: missing; expected str (xraygpt/xrays.yaml)",
        "datasets.xrays.vis_processor.train.name: no processor is called 'crap'; did you mean 'crop'? "
        "Registered: crop. (user.yaml)",
        "model.end_sim: unknown key; did you mean 'end_sym'? (user.yaml)",
        "model.image_size: expected int, got 'big' (--options)",
        "run.init_lr: expected float, got 'abc' (user.yaml)",
        "run.max_epochs: unknown key; did you mean 'max_epoch'? (--options)",
        "runs: unknown section; did you mean 'run'? (user.yaml)",
    ]


def test_a_broken_rule_names_key_and_source() -> None:
    expected = "run.max_epoch: max_epoch must be at least 1, got 0"
    assert problems(USER, "run.max_epoch=0") == [f"{expected} (--options)"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("arch: toy, ", "", "model.arch: missing; expected the registered name of a model (user.yaml)"),
        (
            "arch: toy",
            "arch: toi",
            "model.arch: no model is called 'toi'; did you mean 'toy'? Registered: toy.",
        ),
        ("model_type: small, ", "", "model.model_type: missing; expected one of other, small (user.yaml)"),
        (
            "small",
            "smal",
            "model.model_type: toy has no type 'smal'; did you mean 'small'? Known: other, small.",
        ),
        ("xrays:", "xray:", "datasets.xray: no dataset is called 'xray'; did you mean 'xrays'?"),
        ("task: train", "task: trian", "run.task: no task is called 'trian'; did you mean 'train'?"),
        ("init_lr: 3e-5", "lr_sched: cos", "run.lr_sched: no learning-rate schedule is called 'cos'"),
        ("init_lr: 3e-5", "runner: base", "run.runner: no runner is called 'base'"),
        ("run: {task: train, init_lr: 3e-5}", "run: 5", "run: expected a mapping of keys, got 5"),
        ("name: crop, ", "", "datasets.xrays.vis_processor.train.name: missing"),
        ("image_size: 64", "size: 64", "datasets.xrays.vis_processor.train.size: unknown key"),
        ("sample_ratio: 3", "type: big", "datasets.xrays.type: no type 'big'"),
        ("sample_ratio: 3", "type: [a]", "datasets.xrays.type: no type ['a']"),
        ("arch: toy", "arch: [a]", "model.arch: expected a registered name, got ['a']"),
        ("arch: toy", 'arch: "a\\nb"', "model.arch: expected a registered name, got 'a\\nb'"),
        ("small", "1e400", "model.model_type: toy has no type inf. Known: other, small."),
        ("small", "{}", "model.model_type: toy has no type {}. Known: other, small."),
        ("small", f"0x{'f' * 6000}", "model.model_type: toy has no type a number of thousands of digits"),
        ("xrays:", "1:", "datasets.1: expected a registered name, got 1"),
        ("task: train", "task: train, runner: [a]", "run.runner: expected a registered name, got ['a']"),
        ("init_lr: 3e-5", f"init_lr: {'9' * 400}", "run.init_lr: expected float, got 9999"),
        ("init_lr: 3e-5", "init_lr: .nan", "run.init_lr: expected float, got nan"),
        ("init_lr: 3e-5", f"max_epoch: {2**63}", f"run.max_epoch: expected int, got {2**63}"),
        ("init_lr: 3e-5", '"a\\nb": 1', "'run.a\\nb': unknown key"),
        ("name: crop, image_size: 64", "name: [crop]", "datasets.xrays.vis_processor.train.name: expected a"),
        ("{name: crop, image_size: 64}", "crop", "datasets.xrays.vis_processor.train.name: missing"),
        (
            "vis_processor:\n      train: {name: crop, image_size: 64}",
            "vis_processor: 5",
            "datasets.xrays.vis_processor: expected a mapping",
        ),
    ],
)
def test_one_mistake_one_message(old: str, new: str, expected: str) -> None:
    assert old in USER
    found = problems(USER.replace(old, new))
    assert len(found) == 1
    assert found[0].startswith(expected)
    assert found[0].endswith("(user.yaml)")


def test_missing_file() -> None:
    with pytest.raises(MissingFileError, match=r"nothing\.yaml"):
        Config(argparse.Namespace(cfg_path="nothing.yaml", options=None))


def test_the_keys_of_a_task_are_apart_and_in_the_same_section() -> None:
    cfg = make(USER, "run.metrics=[cider_d]")
    assert cfg.task_cfg == ToyTaskConfig(["cider_d"])
    assert cfg.to_dict()["run"]["metrics"] == ["cider_d"]
    assert make(USER.replace("task: train", "task: search"), "run.k_test=3").task_cfg == ToySearchConfig(3)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (
            "run.k_test=3",
            "run.k_test: belongs to the task search, and run.task is train: leave it out, or set run.task to "
            "search (--options)",
        ),
        ("run.metricks=[a]", "run.metricks: unknown key; did you mean 'metrics'? (--options)"),
        ("run.metrics=3", "run.metrics: expected a list of str, got 3 (--options)"),
        ("run.metrics=[bad]", "run.metrics: metrics must not be bad (--options)"),
    ],
)
def test_mistakes_in_the_keys_of_a_task(option: str, problem: str) -> None:
    assert problems(USER, option) == [problem]


OWN_PARTS = """
from tests.common import test_config
test_config.config_module.registry.register_model({name!r})(type("Own", (), {{
    "config_class": test_config.ToyModelConfig,
    "PRETRAINED_MODEL_CONFIG_DICT": {{}},
    "MODEL_TYPE_REQUIRED": False,
}}))
test_config.config_module.registry.register_task({name!r})(
    type("OwnTask", (), {{"config_class": test_config.ToySearchConfig}})
)
"""


def test_modules_of_the_user_are_imported_before_names_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    Path("own_part.py").write_text(OWN_PARTS.format(name="mine"))
    Path("own_package").mkdir()
    Path("own_package/part.py").write_text(OWN_PARTS.format(name="other"))
    cfg = make("imports: [own_part]\nmodel: {arch: mine, image_size: 3}\nrun: {task: mine}")
    assert (cfg.arch, cfg.model_cfg.image_size) == ("mine", 3)
    assert cfg.to_dict()["imports"] == ["own_part"]
    cfg = make("model: {arch: other}\nrun: {task: mine}", "imports=[own_part, own_package.part]")
    assert cfg.arch == "other"


@pytest.mark.parametrize(
    ("imports", "problem"),
    [
        ("[json, not_there]", "imports[1]: cannot import not_there: ModuleNotFoundError: No module named "),
        ("[breaks]", "imports[0]: cannot import breaks: ZeroDivisionError: division by zero (user.yaml)"),
        ("breaks", "imports: expected a list of modules, got 'breaks' (user.yaml)"),
        ("[3]", "imports: expected a list of modules, got [3] (user.yaml)"),
    ],
)
def test_an_import_that_fails_is_one_error(
    imports: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    Path("breaks.py").write_text("1 / 0")
    (found,) = problems(f"imports: {imports}\nmodel: {{arch: unknown}}")
    assert found.startswith(problem)
    assert found.endswith("(user.yaml)")


def test_an_import_from_the_command_line_is_blamed_on_it() -> None:
    (found,) = problems(USER, "imports=[not_there]")
    assert found.endswith("(--options)")
