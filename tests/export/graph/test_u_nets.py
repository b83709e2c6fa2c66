"""Stride, context and halo of U-Nets, against the known figures."""

from math import ceil

import pytest
from graph_builder import u_net

from isbi_export.graph.analysis.analyse import analyse


@pytest.mark.parametrize("folding", ["none", "strided conv", "SpaceToDepth", "slices", "reshape"])
@pytest.mark.parametrize("upsample", ["transposed", "nearest", "linear", "sizes", "depth to space"])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_u_nets_have_the_known_context_halo_and_stride(levels, upsample, folding):
    found = analyse(u_net(levels, upsample, folding))
    factor = 1 if folding == "none" else 2
    context = factor * ((7 if upsample == "linear" else 6) * 2**levels - 2)
    assert found.exact, found.reasons
    assert found.stride == factor * 2**levels
    assert found.context == (context,) * 4
    assert found.halo == ceil(context / found.stride) * found.stride
