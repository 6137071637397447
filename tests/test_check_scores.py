from tests.check_scores import failures

GOOD = {"n": 300, "f1": 0.95, "f1_shuffled": 0.25, "f1_untrained": 0.0, "seconds": 360}


def test_accepts_scores_at_the_thresholds() -> None:
    assert failures(GOOD) == []


def test_names_every_figure_that_fails() -> None:
    bad = {"n": 299, "f1": float("nan"), "f1_shuffled": 0.2501, "seconds": 361}
    named = [line.split()[0] for line in failures(bad)]
    assert named == ["n", "f1", "f1_shuffled", "f1_untrained", "seconds"]
