"""Synthetic stacks, each drawn once for all tests of a process; what draws them is tested in infer/test_sample.py."""

from functools import cache, wraps

from isbi_infer import sample

_drawn = cache(sample.synthetic_stack)


@wraps(sample.synthetic_stack)
def synthetic_stack(*arguments, **options):
    image_ZYX, labels_ZYX = _drawn(*arguments, **options)
    return image_ZYX.copy(), labels_ZYX.copy()
