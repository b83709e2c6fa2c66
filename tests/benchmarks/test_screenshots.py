"""The picture of the report in the docs shows the page as it is now."""

from benchmarks.screenshots import PICTURE, digest, mark_of


def test_the_picture_of_the_report_is_of_the_templates_as_they_are():
    assert mark_of(PICTURE) == digest(), "run: python -m benchmarks.screenshots"
