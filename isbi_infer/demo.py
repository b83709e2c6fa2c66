"""``python -m isbi_infer.demo FOLDER``: segment a synthetic sample with the released model and draw the result.

Needs the ``demo`` extra (pillow) for the picture.
"""

from __future__ import annotations

from isbi_infer.start import Program

if __name__ == "__main__":
    program = Program("isbi-infer demo")  # what follows takes long to import

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isbi_infer.errors import OutputError
from isbi_infer.files import replacing
from isbi_infer.sample import PIXEL_NM, SECTION_NM, synthetic_stack
from isbi_infer.segmenter import Segmenter
from isbi_infer.terminal import exit_codes, require_packages
from isbi_infer.terminal.progress import show_progress
from isbi_infer.volumes import PixelSize, StackInfo, open_stack, write_stack

OUTLINE_RGB = (255, 140, 0)
CAPTION_HEIGHT = 24


def draw(
    section_YX: npt.NDArray[np.uint8], probability_YX: npt.NDArray[np.float32], path: Path, *, caption: str
) -> None:
    """Draw a section, the section with its membranes outlined, and the probabilities, side by side.

    Parameters
    ----------
    section_YX : ndarray of uint8, shape (Y, X)
        Grey values.
    probability_YX : ndarray of float32, shape (Y, X)
        1 = cell interior, 0 = membrane.
    path : Path
        A PNG file.
    caption : str
        Written below.
    """
    from PIL import Image, ImageDraw

    outlined_YXC = np.repeat(section_YX[..., None], 3, axis=2)
    outlined_YXC[probability_YX < 0.5] = OUTLINE_RGB
    probability_YXC = np.repeat(np.rint(probability_YX * 255).astype(np.uint8)[..., None], 3, axis=2)
    panels = (np.repeat(section_YX[..., None], 3, axis=2), outlined_YXC, probability_YXC)
    picture_YXC = np.concatenate(panels, axis=1)
    canvas = Image.new("RGB", (picture_YXC.shape[1], picture_YXC.shape[0] + CAPTION_HEIGHT), "white")
    canvas.paste(Image.fromarray(picture_YXC), (0, 0))
    ImageDraw.Draw(canvas).text((6, picture_YXC.shape[0] + 4), caption, fill="black", font_size=14)
    with replacing(path) as temporary, temporary.open("wb") as file:
        canvas.save(file, format="PNG")


def run(folder: Path) -> None:
    """Write sample, result and picture into `folder`, and print where they lie."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot create the folder ({error.strerror})") from error
    sample, result, picture = (
        folder / name for name in ("sample.tif", "sample.probability.tif", "outlines.png")
    )

    image_ZYX, _ = synthetic_stack()
    info = StackInfo(
        shape=image_ZYX.shape, pixel_size=PixelSize(y_nm=PIXEL_NM, x_nm=PIXEL_NM, z_nm=SECTION_NM)
    )
    with replacing(sample) as temporary:
        write_stack(temporary, image_ZYX, like=info, dtype=np.dtype(np.uint8))
    print(f"synthetic sample  {sample} ({len(image_ZYX)} sections, nobody's tissue)")

    segmenter = Segmenter(pixels=image_ZYX.size)
    with show_progress("tile", quiet=False) as progress:
        summary = segmenter.segment_file(sample, result, progress=progress)
    print(
        f"probabilities     {result} (1 = cell, 0 = membrane; {summary.provider} {summary.precision}, "
        f"{summary.seconds:.1f} s, {summary.megapixels_per_second:.1f} Mpx/s)"
    )

    with open_stack(result) as reader:
        probability_YX = reader.read(0)
    caption = "synthetic sample, section 1: as drawn | membranes found | probability of cell interior"
    draw(image_ZYX[0], probability_YX, picture, caption=caption)
    print(f"picture           {picture}")


def main() -> None:
    """Run the demonstration."""
    with exit_codes("isbi-infer demo"):
        require_packages("demo", "PIL")
        run(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))


if __name__ == "__main__":
    with program:
        main()
