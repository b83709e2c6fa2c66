"""The small picture of a result in a notebook."""

import base64
import io
import re

import numpy as np
import pytest
from drawn import synthetic_stack
from PIL import Image

import isbi_infer
from isbi_infer import ImageError, show
from isbi_infer.report.pictures import OUTLINE


@pytest.fixture(scope="module")
def sample():
    image_ZYX, label_ZYX = synthetic_stack(5, 64, 64)
    return image_ZYX, (label_ZYX > 0).astype(np.float32)


def opened(shown):
    address = re.fullmatch(
        r'<img alt="[^"]+" src="data:image/png;base64,([^"]+)" style="[^"]+">', shown._repr_html_()
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address[1]))))


def test_a_notebook_gets_a_picture_with_outlines(sample):
    shown = show(*sample)
    np.testing.assert_array_equal(opened(shown), shown.picture)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown._repr_png_()))), shown.picture)
    assert (shown.picture == OUTLINE).all(axis=2).sum() > 20
    assert repr(shown) == "<3 of 5 sections, outlined at 0.5>"


def test_a_single_section_and_other_encodings_give_the_same_picture(sample):
    image_YX, cell_YX = sample[0][0], sample[1][0]
    expected = show(image_YX, cell_YX).picture
    np.testing.assert_array_equal(show(image_YX, 1 - cell_YX, emit="membrane").picture, expected)
    np.testing.assert_array_equal(show(image_YX, (255 * cell_YX).astype(np.uint8)).picture, expected)
    assert repr(show(image_YX, cell_YX)) == "<1 section, outlined at 0.5>"


def test_what_does_not_belong_together_is_refused(sample):
    with pytest.raises(ImageError, match=r"the image is .5, 64, 64., its probabilities are .64, 64."):
        show(sample[0], sample[1][0])


def test_it_is_public_and_found_when_it_is_asked_for():
    assert "show" in dir(isbi_infer)
    with pytest.raises(AttributeError):
        _ = isbi_infer.shows
