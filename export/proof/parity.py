"""The evidence that an exported file computes what its checkpoint computes, or how far it is from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isbi_export.proof.probes import Probe
from isbi_export.proof.runners import Pixels, Runner
from isbi_export.variants import Variant
from isbi_infer.errors import ModelError
from isbi_infer.pixels.probability import decode, encode
from isbi_train.data.labels import SectionLabels, stacked
from isbi_train.scores.metrics import thinned_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One input, and how far the file's probabilities are from the checkpoint's.

    Attributes
    ----------
    data : {"random", "synthetic", "image"}
        What the input is.
    shape : (int, int, int, int)
        (N, 1, Y, X) as the network sees it.
    largest, mean : float
        Absolute difference of a probability.
    changed : int
        Pixels whose class at 0.5 differs; of a file that returns bytes, from that of the checkpoint's rounded result.
    """

    data: str
    shape: tuple[int, ...]
    largest: float
    mean: float
    changed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """V_rand and V_info after thinning; NaN where undefined."""

    v_rand: float
    v_info: float

    def minus(self, other: Scores) -> Scores:
        """Return the change from `other`."""
        return Scores(v_rand=self.v_rand - other.v_rand, v_info=self.v_info - other.v_info)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known about one file before it is published.

    Attributes
    ----------
    variant : Variant
        What the file is.
    comparisons : tuple of Comparison
        With the checkpoint, input by input.
    scores, changes : dict of str to Scores
        On labelled sections, by their `Comparison.data`; and how far they are from the checkpoint's.
    seams : dict of int to float
        See `isbi_export.proof.seams.seam_errors`; empty where the graph is not exact.
    misencoded : int
        Of bytes: how many pixels are not round(255 p) of the same graph's p.
    """

    variant: Variant
    comparisons: tuple[Comparison, ...]
    scores: dict[str, Scores] = field(default_factory=dict)
    changes: dict[str, Scores] = field(default_factory=dict)
    seams: dict[int, float] = field(default_factory=dict)
    misencoded: int = 0

    @property
    def largest(self) -> float:
        """Largest absolute difference of a probability; NaN if there is a NaN."""
        return float(np.max([comparison.largest for comparison in self.comparisons]))

    @property
    def mean(self) -> float:
        """Mean absolute difference of a probability on tissue, synthetic and real."""
        pixels = [np.prod(comparison.shape) for comparison in self._sections]
        return float(np.average([comparison.mean for comparison in self._sections], weights=pixels))

    @property
    def changed(self) -> float:
        """Fraction of the pixels of tissue, synthetic and real, whose class at 0.5 differs."""
        pixels = sum(int(np.prod(comparison.shape)) for comparison in self._sections)
        return sum(comparison.changed for comparison in self._sections) / pixels

    @property
    def tiles(self) -> float | None:
        """Largest difference of tiles with the exact halo from the whole section; None where not measured."""
        return self.seams[max(self.seams)] if self.seams else None

    @property
    def judged(self) -> Scores:
        """Changes of the scores that count: on the user's sections where there are some, else on synthetic ones."""
        return self.changes["image" if "image" in self.changes else "synthetic"]

    @property
    def _sections(self) -> list[Comparison]:
        return [comparison for comparison in self.comparisons if comparison.data != "random"]


def compare(
    variant: Variant,
    run: Runner,
    probes: Sequence[Probe],
    reference: Mapping[str, Scores],
    encoded_from: Runner | None = None,
) -> Evidence:
    """Run a file on inputs whose results by its checkpoint are known.

    Parameters
    ----------
    variant : Variant
        What the file is.
    run : callable
        The file.
    probes : sequence of Probe
        Inputs, with the checkpoint's results.
    reference : mapping of str to Scores
        From `reference_scores`.
    encoded_from : callable, optional
        For a file that returns bytes: the same graph returning probabilities.

    Returns
    -------
    Evidence
        Without seams.

    Raises
    ------
    ModelError
        If a result has another shape or dtype than it should.
    """
    comparisons, found_by_probe, misencoded = [], [], 0
    for probe in probes:
        raw_NCYX = run(probe.image_NCYX, probe.statistics)
        expected_NCYX = probe.expected_NCYX
        if raw_NCYX.shape != expected_NCYX.shape or raw_NCYX.dtype != variant.io:
            raise ModelError(
                f"the {variant} file gives {raw_NCYX.shape} {raw_NCYX.dtype} for an input of {probe.image_NCYX.shape}"
            )
        if encoded_from:
            encoded_NCYX = encode(encoded_from(probe.image_NCYX, probe.statistics), "cell", "uint8")
            misencoded += int(np.count_nonzero(raw_NCYX != encoded_NCYX))
        found_NCYX = decode(raw_NCYX)
        # A byte has no place for exactly 0.5, which dead units return.
        class_NCYX = decode(encode(expected_NCYX, "cell", variant.io)) > 0.5
        difference_NCYX = np.abs(found_NCYX - expected_NCYX)
        comparisons.append(
            Comparison(
                data=probe.data,
                shape=expected_NCYX.shape,
                largest=float(difference_NCYX.max()),  # a NaN stays one, and no gate accepts it
                mean=float(difference_NCYX.mean(dtype=np.float64)),
                changed=int(np.count_nonzero((found_NCYX > 0.5) != class_NCYX)),
            )
        )
        found_by_probe.append(found_NCYX)
    scores = _scores(probes, found_by_probe)
    return Evidence(
        variant=variant,
        comparisons=tuple(comparisons),
        scores=scores,
        changes={data: found.minus(reference[data]) for data, found in scores.items()},
        misencoded=misencoded,
    )


def reference_scores(probes: Sequence[Probe]) -> dict[str, Scores]:
    """Score the checkpoint itself on the labelled sections."""
    return _scores(probes, [probe.expected_NCYX for probe in probes])


def _scores(probes: Sequence[Probe], found: Sequence[Pixels]) -> dict[str, Scores]:
    scores = {}
    for data in dict.fromkeys(probe.data for probe in probes if probe.labels is not None):
        proposal: list[Any] = []
        labels: list[SectionLabels] = []
        for probe, found_NCYX in zip(probes, found, strict=True):
            if probe.data == data and probe.labels is not None:
                proposal.append(probe.section(found_NCYX))
                labels.append(probe.labels)
        proposal_ZYX = np.stack(proposal)
        if np.isfinite(proposal_ZYX).all():
            thinned = thinned_scores(
                proposal_ZYX,
                np.stack([each.cell_YX for each in labels]),
                ids=stacked(each.ids_YX for each in labels),
                ignored=stacked(each.ignored_YX for each in labels),
            )
            scores[data] = Scores(v_rand=float(thinned.v_rand), v_info=float(thinned.v_info))
        else:
            scores[data] = Scores(v_rand=float("nan"), v_info=float("nan"))
    return scores
