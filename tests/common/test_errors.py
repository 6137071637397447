from xraygpt.common.errors import ConfigError, MissingFileError, XrayGPTError, did_you_mean


def test_one_problem_is_the_message_itself() -> None:
    assert str(ConfigError("run.seed: bad")) == "run.seed: bad"


def test_several_problems_are_counted_and_listed() -> None:
    error = ConfigError(["a: x", "b: y"])
    assert error.problems == ["a: x", "b: y"]
    assert str(error) == "2 problems in the configuration:\n  - a: x\n  - b: y"


def test_multi_line_messages_keep_their_lines() -> None:
    assert str(MissingFileError("one\ntwo")) == "one\ntwo"
    assert isinstance(MissingFileError("x"), FileNotFoundError)


def test_an_error_without_a_message_shows_its_name() -> None:
    assert str(XrayGPTError()) == "XrayGPTError"


def test_did_you_mean() -> None:
    assert did_you_mean("max_epochs", ["max_epoch", "seed"]) == "; did you mean 'max_epoch'?"
    assert did_you_mean("zzz", ["max_epoch"]) == "."
