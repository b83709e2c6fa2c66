"""How a model's sections are cut: its contract, the user's wishes and the memory there is, made into plans."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from isbi_infer.errors import ModelError, UsageError
from isbi_infer.model.contract import ModelContract
from isbi_infer.plan.memory import available_memory
from isbi_infer.plan.tiles import Plan, plan_section

_CPU_TILE_PIXELS = 2304**2  # time per pixel is flat up to here, and 4096 x 4096 takes four tiles
_GPU_BATCH_PIXELS = 2**21  # fills a large GPU
# What the runtimes take on the CPU per byte of live float32 activations, measured; float16 is computed in float32.
_RUNTIME_MEMORY = {"float32": 2.3, "float16": 2.3, "int8": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """From a section's shape to its plan.

    Attributes
    ----------
    contract : ModelContract
        Gives stride, border, activations, and whether tiles are exact at all.
    lanes : int
        Batches computed at once.
    on_cpu : bool
        Whether the provider is the CPU.
    halo : int
        Pixels of context.
    tile : int or None
        Longest side of a tile, as the user wants it.
    batch : int or None
        Tiles of a batch, as the user wants it.
    memory : int or None
        Bytes for activations; None is half of what is free.
    """

    contract: ModelContract
    lanes: int
    on_cpu: bool
    halo: int
    tile: int | None
    batch: int | None
    memory: int | None

    @property
    def bytes_per_pixel(self) -> float:
        """Memory of one tile in the works, per pixel of the tile."""
        return _RUNTIME_MEMORY[self.contract.precision] * self.contract.activation_bytes_per_pixel

    def plan(self, shape: tuple[int, int], halvings: int = 0) -> Plan:
        """Plan a section.

        Parameters
        ----------
        shape : (int, int)
            (Y, X) in pixels.
        halvings : int
            How often to halve the tile's area, for lack of memory.

        Returns
        -------
        Plan

        Raises
        ------
        ModelError
            If the model is not exact and the section does not fit into one tile.
        ResourceError
            If there is not enough memory for the smallest tile.
        UsageError
            If the wanted tile cannot be.
        """
        plan = self._plan_within(shape, self._most_pixels())
        if halvings:
            plan = self._plan_within(shape, prod(plan.tile_shape) // 2**halvings)
        if len(plan.tiles) > 1 and not self.contract.exact:
            raise ModelError(
                f"tiles would give another result than the whole section ({self.contract.not_exact_because[0]}), "
                f"and {shape[0]} x {shape[1]} pixels do not fit into one; allow more memory or cut the sections"
            )
        return plan

    def tiles_per_batch(self, plan: Plan) -> int:
        """Give the tiles of a batch; a CPU gains nothing from more than one."""
        if self.batch is not None or self.on_cpu:
            return self.batch or 1
        return max(1, min(_GPU_BATCH_PIXELS, self._most_pixels()) // prod(plan.tile_shape))

    def _plan_within(self, shape: tuple[int, int], most_pixels: int) -> Plan:
        return plan_section(
            shape,
            stride=self.contract.stride,
            halo=self.halo,
            border=self.contract.border,
            tile=self.tile,
            most_pixels=most_pixels,
        )

    def _most_pixels(self) -> int:
        """Give the largest area of a tile that the memory allows and that gains anything."""
        memory = available_memory() // 2 if self.memory is None else self.memory
        allowed = int(memory / (self.bytes_per_pixel * self.lanes * (self.batch or 1)))
        return min(allowed, _CPU_TILE_PIXELS if self.on_cpu else _GPU_BATCH_PIXELS)


def choose_halo(contract: ModelContract, wanted: int | None) -> tuple[int, tuple[str, ...]]:
    """Give the halo to use, and what has to be said about it.

    Parameters
    ----------
    contract : ModelContract
        Gives the exact halo, and the measured errors of smaller ones.
    wanted : int or None
        What the user wants; None is the exact one.

    Returns
    -------
    (int, tuple of str)
        Pixels, and notes.

    Raises
    ------
    UsageError
        If it is no multiple of the stride.
    """
    if not contract.exact:
        return contract.halo, (
            f"sections are not tiled, since that would change the result: {contract.not_exact_because[0]}",
        )
    if wanted is None or wanted == contract.halo:
        return contract.halo, ()
    if wanted < 0 or wanted % contract.stride:
        nearest = max(0, round(wanted / contract.stride) * contract.stride)
        raise UsageError(
            f"halo {wanted} is not a multiple of the model's stride {contract.stride}; try {nearest}"
        )
    if wanted > contract.halo:
        return wanted, (f"a halo of {wanted} costs more and gains nothing; {contract.halo} is exact",)
    error = contract.halo_error.get(str(wanted))
    bound = f"{error:.1g} on the synthetic sample at export" if error is not None else "an unmeasured amount"
    return wanted, (
        f"a halo of {wanted} is not exact ({contract.halo} is): near seams results differ by up to {bound}",
    )
