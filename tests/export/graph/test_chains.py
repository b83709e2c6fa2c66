"""What tiles and whole images really give: random chains of operations, in whole numbers."""

from math import ceil

import numpy as np
import onnxruntime
from graph_builder import FLOATS, Net
from hypothesis import given, settings
from hypothesis import strategies as st

from isbi_export.graph.analysis.analyse import analyse


@st.composite
def chains(draw):
    """Give a model of one image to one image, that looks along one axis only."""
    axis = draw(st.sampled_from([2, 3]))
    net = Net()

    def along(value, other=1):
        return [value, other] if axis == 2 else [other, value]

    def window(stride, largest):
        kernel = draw(st.integers(1, largest))
        dilation = draw(st.sampled_from([1, 1, 2]))
        total = max((kernel - 1) * dilation + 1 - stride, 0)
        before = draw(st.integers(0, total))
        pads = [*along(before, 0), *along(total - before, 0)]
        return {"pads": pads, "strides": along(stride), "dilations": along(dilation)}, along(kernel)

    def uneven(kernel):
        """Give different weights, or neighbours that read one element would be equal by chance."""
        return np.resize(np.array([1, 2], FLOATS), (1, 1, *kernel))

    def step(x, stride):
        kind = draw(st.sampled_from(["Conv", "MaxPool", "AveragePool", "Slice"] if stride > 1 else SAME_SIZE))
        if kind == "Conv":
            options, kernel = window(stride, 5)
            return net("Conv", x, uneven(kernel), **options)
        if kind == "MaxPool":
            options, kernel = window(stride, 4)
            if kernel[axis - 2] - 1 < max(options["pads"]) or options["dilations"] != [1, 1]:
                options |= {"pads": [0] * 4, "dilations": [1, 1]}
                kernel = along(stride)
            return net("MaxPool", x, kernel_shape=kernel, **options)
        if kind == "AveragePool":
            return net("AveragePool", x, kernel_shape=along(stride), strides=along(stride))
        if kind == "Slice":
            starts = np.array([draw(st.integers(0, stride - 1))])
            return net("Slice", x, starts, np.array([2**60]), np.array([axis]), np.array([stride]))
        if kind == "shift":
            before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
            mode = draw(st.sampled_from(["constant", "edge"]))
            padded = net("Pad", x, np.array([before, after]), "", np.array([axis]), mode=mode)
            start = draw(st.integers(0, before + after))
            end = np.array([start - before - after or 2**60])
            return net("Slice", padded, np.array([start]), end, np.array([axis]))
        return net("Relu", x)

    def up(x, factor):
        kind = draw(st.sampled_from(["ConvTranspose", "nearest", "linear"]))
        if kind == "ConvTranspose":
            kernel, more = draw(st.integers(factor, 5)), draw(st.integers(0, factor - 1))
            total = kernel - factor + more
            before = draw(st.integers(0, total))
            return net(
                "ConvTranspose",
                x,
                uneven(along(kernel)),
                strides=along(factor),
                pads=[*along(before, 0), *along(total - before, 0)],
                output_padding=along(more, 0),
            )
        mode = kind if factor != 3 else "nearest"
        x = net("Resize", x, "", np.array([1, 1, *along(factor)], FLOATS), mode=mode)
        return net("Conv", x, uneven(along(2)), pads=[*along(1, 0), 0, 0])

    x, factors, skips = "image", [], {}
    for _ in range(draw(st.integers(1, 5))):
        scale = tuple(factors)
        if skips.get(scale) and draw(st.booleans()):
            x = net("Add", x, draw(st.sampled_from(skips[scale])))
        skips.setdefault(scale, []).append(x)
        move = draw(st.sampled_from(["same", "same", "down", "up"]))
        if move == "down" and len(factors) < 2:
            factors.append(draw(st.sampled_from([2, 2, 3])))
            x = step(x, factors[-1])
        elif move == "up" and factors:
            x = up(x, factors.pop())
        else:
            x = step(x, 1)
    while factors:
        x = up(x, factors.pop())
    return axis, net.model(x)


SAME_SIZE = ["Conv", "Conv", "MaxPool", "shift", "Relu"]


def runner(model, axis):
    """Run the model on lines of numbers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(line):
        batch_NCYX = line.astype(FLOATS)[None, None, :, None]
        batch_NCYX = batch_NCYX if axis == 2 else batch_NCYX.swapaxes(2, 3)
        return session.run(None, {"image": batch_NCYX})[0].reshape(-1)

    return run


@settings(max_examples=settings().max_examples * 5 // 2)
@given(chain=chains(), data=st.data())
def test_tiles_with_the_halo_give_the_whole_line_and_with_a_stride_less_they_do_not(chain, data):
    axis, model = chain
    found = analyse(model)
    assert found.exact, found.reasons
    run, stride = runner(model, axis), found.stride
    before, after = found.context[:2] if axis == 2 else found.context[2:]
    near = 3 * stride * ceil((before + after + 8) / stride)
    length, cut = 3 * near, near  # far from both ends of the line

    def kept(line, halo, *, from_start):
        """Give what a tile keeps that begins or ends at the cut, and what the whole line gives there."""
        whole = run(line)
        if from_start:
            return run(line[cut:])[halo:-near], whole[cut + halo : -near]
        return run(line[: length - cut])[near : length - cut - halo], whole[near : length - cut - halo]

    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed).integers(0, 8, length)
    for from_start, context in ((True, before), (False, after)):
        halo = ceil(context / stride) * stride
        tile, whole = kept(random, halo, from_start=from_start)
        assert (tile == whole).all()
        if not halo:
            continue
        # What lies beyond the cut is all there is, or the larger the farther.
        beyond = np.arange(length) < cut if from_start else np.arange(length) >= length - cut
        slope = np.arange(length)[::-1] if from_start else np.arange(length)
        tighter = [kept(line, halo - stride, from_start=from_start) for line in (beyond, slope)]
        assert any((tile != whole).any() for tile, whole in tighter)


@given(chain=chains())
def test_no_pixel_beyond_the_context_counts(chain):
    axis, model = chain
    found = analyse(model)
    run, stride = runner(model, axis), found.stride
    before, after = found.context[:2] if axis == 2 else found.context[2:]
    line = stride * ceil((before + after + 8) / stride) * 2
    place = np.arange(2 * line)
    assert not run(place < line - before)[line:].any()
    assert not run(place >= line + after)[:line].any()


@given(chain=chains(), data=st.data())
def test_shifting_by_the_stride_shifts_the_result(chain, data):
    axis, model = chain
    found = analyse(model)
    run, stride = runner(model, axis), found.stride
    margin = stride * ceil((sum(found.context) + 8) / stride)
    line = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 1000, 4 * margin)
    shifted = run(np.roll(line, stride))
    assert (shifted[margin + stride : -margin] == run(line)[margin : -margin - stride]).all()
