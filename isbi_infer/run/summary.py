"""What a run will take, and what it did: plain values that the command line prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run would take.

    Attributes
    ----------
    provider : str
        The execution provider that would run.
    precision : str
        Of the model's weights and arithmetic.
    shape : tuple of int
        (Z, Y, X) in pixels.
    tile_shape : (int, int)
        (Y, X) of every tile.
    tiles : int
        Of one section.
    overhead : float
        Pixels computed per pixel of the image.
    halo : int
        Pixels of context dropped on sides with a neighbour.
    batch, lanes : int
        Tiles computed at once by one call, and calls at once.
    memory_bytes : int
        For the network's activations.
    seconds : float
        Computing time, from one timed tile.
    notes : tuple of str
        What a reader must know.
    """

    provider: str
    precision: str
    shape: tuple[int, int, int]
    tile_shape: tuple[int, int]
    tiles: int
    overhead: float
    halo: int
    batch: int
    lanes: int
    memory_bytes: int
    seconds: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        sections, height, width = self.shape
        return (
            f"{self.provider} {self.precision}: {sections} sections of {height} x {width}, each in {self.tiles} "
            f"tiles of {self.tile_shape[0]} x {self.tile_shape[1]} with a halo of {self.halo}\n"
            f"overhead {self.overhead:.3f}, batch {self.batch} x {self.lanes} lanes, "
            f"about {self.memory_bytes / 2**20:.0f} MiB for activations, about {self.seconds:.1f} s of computing"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What one run of `Segmenter.segment_file` did.

    Attributes
    ----------
    output : str
        The file written.
    provider : str
        The execution provider that really ran.
    precision : str
        Of the model's weights and arithmetic.
    sections : int
        Sections segmented.
    shape : tuple of int
        Of the output, (Y, X) or (Z, Y, X).
    seconds : float
        Wall time from opening the input to the finished output.
    megapixels_per_second : float
        Input pixels over `seconds`.
    model_sha256 : str
        Of the model file.
    notes : tuple of str
        What was done to the input that a reader must know.
    """

    output: str
    provider: str
    precision: str
    sections: int
    shape: tuple[int, ...]
    seconds: float
    megapixels_per_second: float
    model_sha256: str
    notes: tuple[str, ...]
