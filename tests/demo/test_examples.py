"""The example radiographs."""

import numpy as np

from xraygpt.datasets.phantom.truth import compatible
from xraygpt.demo.examples import SHOWN, make_examples


def test_examples_are_possible_and_the_same_at_every_start() -> None:
    for truth in SHOWN:
        assert all(compatible(a, b) for a in truth for b in truth if a is not b)
    first, second = make_examples(), make_examples()
    assert [example.caption for example in first][:2] == ["normal", "cardiomegaly"]
    assert len({example.caption for example in first}) == len(SHOWN)
    for one, two in zip(first, second, strict=True):
        assert one.image.size == (256, 256)
        assert np.array_equal(one.image, two.image)
