import pytest

from xraygpt.common.errors import ConfigError, UnknownNameError, XrayGPTError
from xraygpt.common.registry import Registry, Table, registry


@pytest.fixture
def table() -> Table[object]:
    table = Table[object]("model", "xraygpt.common")
    for name in ("mini_gpt4", "blip2"):
        table.register(name)(type(name, (), {}))
    return table


def test_register_returns_the_class_and_get_finds_it(table: Table[object]) -> None:
    class Mine:
        pass

    assert table.register("mine")(Mine) is Mine
    assert table.get("mine") is Mine
    assert table.names() == ["blip2", "mine", "mini_gpt4"]


def test_taken_name_is_refused_and_the_first_class_stays(table: Table[object]) -> None:
    first = table.get("blip2")
    with pytest.raises(ValueError, match=r"'blip2' is taken by .*blip2"):
        table.register("blip2")(type("Other", (), {}))
    assert table.get("blip2") is first


def test_unknown_name_gives_nearest_and_all_names(table: Table[object]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        table.get("minigpt4")
    assert str(caught.value) == (
        "no model is called 'minigpt4'; did you mean 'mini_gpt4'? Registered: blip2, mini_gpt4."
    )
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, XrayGPTError)


def test_a_class_may_have_to_derive_from_another(table: Table[object]) -> None:
    class Base:
        pass

    class Mine(Base):
        pass

    table.register("mine")(Mine)
    assert table.get("mine", Base) is Mine
    with pytest.raises(ConfigError, match=r"the model 'blip2' \(.*blip2\) does not derive from .*Base"):
        table.get("blip2", Base)


def test_nouns_do_not_mix() -> None:
    mine = Registry()
    mine.register_task("pretrain")(type("Task", (), {}))
    mine._models.package = "xraygpt.common"
    with pytest.raises(UnknownNameError, match="no model is called 'pretrain'. Registered: none."):
        mine.get_model_class("pretrain")


def test_first_look_up_imports_the_package() -> None:
    assert registry.list_lr_schedulers() == ["linear_warmup_cosine_lr", "linear_warmup_step_lr"]


@pytest.mark.parametrize("noun", ["vision_encoder", "bridge"])
def test_parts_of_a_model_are_looked_up_by_name(noun: str) -> None:
    mine = Registry()
    table = getattr(mine, f"_{noun}s")
    assert table.package == f"xraygpt.models.{noun.removeprefix('vision_')}s"
    table.package = "xraygpt.common"
    part = getattr(mine, f"register_{noun}")("mine")(type("Part", (), {}))
    assert getattr(mine, f"get_{noun}_class")("mine") is part
    assert getattr(mine, f"list_{noun}s")() == ["mine"]
