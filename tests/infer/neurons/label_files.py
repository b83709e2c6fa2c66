"""Results to be labelled, as they are stored, and what is read of labels."""

import numpy as np
from drawn import synthetic_stack

from isbi_infer.volumes import PixelSize, StackInfo, open_source
from isbi_infer.volumes.protocol import Block
from isbi_infer.volumes.zarr.writer import OmeZarrSink

SIZE = PixelSize(y_nm=4, x_nm=4, z_nm=50)


def unsure(shape, seed=0):
    """Return probabilities of cells that touch in places."""
    cell_ZYX = synthetic_stack(*shape)[1] > 0
    noise = np.random.default_rng(seed).normal(0, 0.2, shape)
    return np.clip(cell_ZYX * 0.6 + 0.2 + noise, 0, 1).astype(np.float32)


def store(path, probability_ZYX, block):
    """Write a result in blocks."""
    depth, height, width = probability_ZYX.shape
    like = StackInfo(shape=probability_ZYX.shape, pixel_size=SIZE)
    how = {"dtype": "float32", "shard": (block, 512, 512), "chunk": (1, 256, 256)}
    with OmeZarrSink(path, shape=probability_ZYX.shape, like=like, **how) as sink:
        for number, z in enumerate(range(0, depth, block)):
            part = Block(number, (z, min(z + block, depth)), (0, height), (0, width))
            sink.write(part, probability_ZYX[z : z + block])
        sink.finish()
    return like


def stored(path):
    with open_source(path, grey=False) as source:
        return np.stack([source.read(z) for z in range(source.info.sections)])
