"""The demo's own arithmetic, run in the browser, against the library's: plans, statistics, interpolation."""

import numpy as np
import pytest

from isbi_infer.errors import ResourceError
from isbi_infer.pixels.canvas import find_canvas
from isbi_infer.pixels.mending import tissue_of
from isbi_infer.pixels.normalise import normalise
from isbi_infer.pixels.resample import resample
from isbi_infer.pixels.statistics import section_statistics
from isbi_infer.plan.tiles import plan_section


def in_browser(page, code, argument):
    return page.tab.evaluate(f"async (argument) => {{ {code} }}", argument)


def spans(window):
    return [[part.start, part.stop] for part in window]


def test_plans_of_any_size_are_the_librarys(page):
    random = np.random.default_rng(7)
    asked = []
    for _ in range(100):
        stride, steps = int(random.choice([8, 16, 32])), int(random.integers(0, 7))
        smallest = (2 * steps + 1) * stride
        contract = {"stride": stride, "halo": stride * steps, "border": int(random.choice([0, 0, 20, 92]))}
        limits = {"mostPixels": int(smallest**2 * random.uniform(0.3, 8))} if random.random() < 0.5 else {}
        if random.random() < 0.5:
            limits["tile"] = smallest + int(random.integers(0, 20)) * stride
        asked.append([(random.integers(1, 8 * smallest, 2)).tolist(), contract, limits])
    code = """
        const { planSection } = await import("./tiles.js");
        return argument.map((each) => {
            try {
                const { padded, pad, tileShape, tiles } = planSection(...each);
                return { padded, pad, tileShape, tiles };
            } catch (error) { return error.message; }
        });"""
    refused = 0
    for (shape, contract, limits), found in zip(asked, in_browser(page, code, asked), strict=True):
        try:
            plan = plan_section(
                tuple(shape), **contract, tile=limits.get("tile"), most_pixels=limits.get("mostPixels")
            )
        except ResourceError:
            refused += 1
            assert found == "There is too little memory for the smallest tile."
            continue
        assert found["padded"] == list(plan.padded)
        assert found["pad"] == [list(pad) for pad in plan.pad]
        assert found["tileShape"] == list(plan.tile_shape)
        assert found["tiles"] == [
            {"reads": spans(tile.reads), "crop": spans(tile.crop), "owns": spans(tile.owns)}
            for tile in plan.tiles
        ]
    assert 0 < refused < len(asked) / 2


ARRAYS = {
    "u1": "Uint8Array",
    "u2": "Uint16Array",
    "i2": "Int16Array",
    "f4": "Float32Array",
    "f8": "Float64Array",
}


def image(section_YX):
    kind = ARRAYS[section_YX.dtype.str[1:]]
    return f"const image = {{ pixels: {kind}.from(argument), shape: {list(section_YX.shape)} }};"


@pytest.mark.parametrize("dtype", list(ARRAYS))
@pytest.mark.parametrize("shown", ["tissue", "hot pixels", "resin"])
def test_sections_are_measured_mended_and_normalised_as_by_the_library(page, dtype, shown):
    random = np.random.default_rng(3)
    shape = (198, 186) if shown == "resin" else (70, 90)
    smooth_YX = np.cumsum(np.cumsum(random.normal(size=shape), 0), 1)
    section_YX = (1000 + 100 * smooth_YX / np.abs(smooth_YX).max() + random.normal(0, 5, shape)).clip(0)
    if shown == "resin":
        section_YX[:, 5:] = 1600 + random.normal(0, 10, (198, 181))
    section_YX = (section_YX / 8 if dtype == "u1" else section_YX).astype(dtype)
    if shown == "hot pixels":
        section_YX[5:7, 10:14] = section_YX[0, 0] = section_YX[-1, 80:] = 255 if dtype == "u1" else 30000
        section_YX[30:, 40] = 0
    expected = section_statistics(section_YX)
    assert bool(expected.outliers) == (shown == "hot pixels")
    code = (
        'const { gather, mended, statistics } = await import("./pixels.js");'
        + image(section_YX)
        + """
        const { planSection } = await import("./tiles.js");
        const found = statistics(image);
        const plan = planSection(image.shape, { stride: 16, halo: 0, border: 0 });
        const [filled, out] = [mended(image, found), new Float32Array(plan.padded[0] * plan.padded[1])];
        gather(filled, plan, plan.tiles[0], found, out);
        return [found, Array.from(filled.pixels), Array.from(out), plan.padded];"""
    )
    found, filled, normalised, padded = in_browser(page, code, section_YX.ravel().tolist())
    for name in ("low", "high", "fill", "outliers", "blank"):
        assert found[name] == getattr(expected, name), name
    assert found["mean"] == pytest.approx(expected.mean, rel=1e-15)
    assert found["std"] == pytest.approx(expected.std, rel=1e-14)
    tissue_YX = tissue_of(section_YX, expected)
    assert np.array_equal(np.reshape(filled, section_YX.shape), tissue_YX)
    reflected_YX = np.pad(normalise(tissue_YX, expected), ((0, 10), (0, 6)), mode="reflect")
    assert np.array_equal(np.reshape(normalised, padded).astype("float32"), reflected_YX)


def tissue(seed=0):
    random = np.random.default_rng(seed)
    smooth_YX = np.cumsum(np.cumsum(random.normal(size=(400, 420)), 0), 1)
    return (
        (90 + 60 * smooth_YX / np.abs(smooth_YX).max() + random.normal(0, 9, (400, 420)))
        .clip(1, 254)
        .astype("u1")
    )


def margin(section_YX):
    section_YX[:, :70] = 0
    section_YX[350:] = 255


def wedge(section_YX):
    section_YX[np.add.outer(np.arange(400), np.arange(420)) > 790] = 0


def strip(section_YX):
    section_YX[:, -1] = 0


def hole(section_YX):
    section_YX[100:150, 200:260] = 0


def clipped(section_YX):
    section_YX[section_YX < 95] = 95


def soft(section_YX):
    section_YX[:200, :300] = 0
    for step in range(1, 6):
        section_YX[200 + step, :300] = section_YX[:200, 300 + step] = 3 * step


def everything(section_YX):
    section_YX[:] = 0
    section_YX[10:20, 10:20] = 60


@pytest.mark.parametrize(
    "change",
    [
        *(margin, wedge, hole, clipped, soft, everything, lambda section_YX: None),
        pytest.param(strip, marks=pytest.mark.more),
    ],
)
def test_canvas_is_found_where_the_library_finds_it(page, change):
    section_YX = tissue()
    change(section_YX)
    expected_YX = find_canvas(section_YX)
    code = (
        'const { findCanvas } = await import("./canvas.js");'
        + image(section_YX)
        + "const canvas = findCanvas(image); return canvas && Array.from(canvas).join('');"
    )
    found = in_browser(page, code, section_YX.ravel().tolist())
    assert (found is None) == (expected_YX is None)
    if found is not None:
        found_YX = np.frombuffer(found.encode(), np.uint8).reshape(section_YX.shape) == ord("1")
        assert np.array_equal(found_YX, expected_YX)


@pytest.mark.parametrize("shape", [(31, 64), (120, 97), (13, 11), (1, 1), (50, 61)])
def test_sections_are_interpolated_to_the_librarys_bits(page, shape):
    section_YX = np.random.default_rng(5).integers(0, 60000, (50, 61)).astype("u2")
    code = (
        'const { resample } = await import("./pixels.js");'
        + image(section_YX)
        + f"return Array.from(resample(image, {list(shape)}).pixels);"
    )
    found_YX = np.reshape(in_browser(page, code, section_YX.ravel().tolist()), shape).astype("float32")
    assert np.array_equal(found_YX, resample(section_YX, shape))
