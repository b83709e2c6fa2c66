"""What the table of devices holds of each; kept apart from what computes, so that listing devices imports nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """One precision in which a device computes.

    Attributes
    ----------
    name : {"fp32", "bf16", "fp16", "int8"}
        What ``--precision`` takes.
    file : {"float32", "float16", "int8"}
        The precision of the model file that it is computed from.
    gated : bool
        Whether "auto" takes it only for files whose contract names it among the `runtimes` that passed their gate.
    memory : float
        Bytes that the runtime takes per byte of live float32 activations, measured.
    apart : float
        By how much tiles were seen to differ from the whole section, in probability; 0 where they never did. It counts
        where the model itself is exact.
    """

    name: str
    file: str
    memory: float
    gated: bool = False
    apart: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A row of the table of devices; see `isbi_infer.model.devices`.

    Attributes
    ----------
    name : str
        What ``--provider`` takes.
    formats : tuple of {"onnx", "torchscript"}
        Model files that it runs.
    backend : str
        ``module:class`` of its `Backend`, imported when it is used and not before.
    kind : {"cpu", "gpu"}
        Where it computes.
    runtime_name : str
        What its runtime calls it.
    wheels : tuple of str
        Distributions that provide its runtime, any one of them.
    clashes : tuple of str
        Distributions of which only one may be installed, since they overwrite each other.
    remedy : str
        The command that installs what it lacks.
    proof : str
        How it is proved to be active, in one line.
    arithmetic : tuple of Arithmetic
        Precisions, the fastest first.
    tile_pixels : int
        Largest area of a tile that gains anything.
    batch_pixels : int or None
        Pixels of a batch that fill it; None where more than one tile at once gains nothing.
    fixed_batch : bool
        Whether the last batch is filled up, since each new shape costs much.
    options : mapping of str to str
        Handed to the runtime.
    memory_space : str or None
        Where inputs and outputs stay between runs, as the runtime calls it; None is the processor's memory.
    in_auto : bool
        Whether "auto" tries it.
    auto_pixels_per_core : int
        Least number of pixels of a run, per processor core, for which "auto" takes it: for fewer its slower start costs
        more than it gains.
    repair : str or None
        The command that mends it where its runtime is installed and it does not run; None where that is no fault.
    """

    name: str
    formats: tuple[Literal["onnx", "torchscript"], ...]
    backend: str
    kind: Literal["cpu", "gpu"]
    runtime_name: str
    wheels: tuple[str, ...]
    clashes: tuple[str, ...]
    remedy: str
    proof: str
    arithmetic: tuple[Arithmetic, ...]
    tile_pixels: int
    batch_pixels: int | None = None
    fixed_batch: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    memory_space: str | None = None
    in_auto: bool = True
    auto_pixels_per_core: int = 0
    repair: str | None = None
