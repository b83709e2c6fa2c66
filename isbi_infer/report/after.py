"""What is to be looked at after a run: checked before it, drawn from source and result when both are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isbi_infer.errors import UsageError
from isbi_infer.files import check_writable
from isbi_infer.terminal import require_packages

if TYPE_CHECKING:
    from isbi_infer.model.contract import ModelContract
    from isbi_infer.plan.run import RunPlan
    from isbi_infer.plan.summary import RunSummary
    from isbi_infer.report.run_report import Errors, FinishedRun
    from isbi_infer.volumes import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """Pictures that are wanted of a run, by the files that they go to.

    Attributes
    ----------
    report : Path or None
        One page of HTML, see `isbi_infer.report.run_report`.
    overlay : Path or None
        A PNG of the first, the middle and the last section with their membranes outlined.
    contact_sheet : Path or None
        A PNG of up to 30 sections, outlined and beside their probabilities.
    """

    report: Path | None = None
    overlay: Path | None = None
    contact_sheet: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.wanted())

    def wanted(self) -> list[tuple[str, Path]]:
        """Return the files, each with the option that names it."""
        named = (
            ("--report", self.report),
            ("--overlay", self.overlay),
            ("--contact-sheet", self.contact_sheet),
        )
        return [(option, path) for option, path in named if path is not None]

    def check(self, *, shares: int = 1) -> None:
        """Make sure, before any work, that all can be written.

        Parameters
        ----------
        shares : int
            Of how many runs the result is made.

        Raises
        ------
        DependencyError
            If a package is missing.
        OutputError
            If a file cannot be created.
        UsageError
            If a name has the wrong ending, or the run is one of several shares.
        """
        if not self:
            return
        require_packages("report", "jinja2", "PIL")
        for option, path in self.wanted():
            suffixes = (".html", ".htm") if path is self.report else (".png",)
            if shares > 1:
                raise UsageError(
                    f"{option} {path}: a share of a run has no whole result to show; leave it out"
                )
            if path.suffix.lower() not in suffixes:
                raise UsageError(f"{option} {path}: expected a name that ends in {suffixes[0]}")
            check_writable(path)

    def watch(self, plan: RunPlan) -> Watched:
        """Return what takes notes during a run of a plan, and draws when it is over."""
        return Watched(self, plan)

    def draw(self, run: FinishedRun) -> tuple[str, ...]:
        """Draw what is wanted.

        Parameters
        ----------
        run : FinishedRun
            What it is about.

        Returns
        -------
        tuple of str
            What of the run is not shown.

        Raises
        ------
        OutputError
            If a file cannot be written; the result of the run is there all the same.
        """
        from isbi_infer.report.pictures import evenly
        from isbi_infer.report.run_report import write_report
        from isbi_infer.report.sheets import ON_OVERLAY, ON_SHEET, draw_contact_sheet, draw_overlay

        notes: tuple[str, ...] = ()
        if self.report is not None:
            notes = write_report(run, self.report)
        total, name = run.source.info.sections, Path(run.source.name).absolute().name
        outlined = f"membranes outlined at {run.threshold:.2g}"
        for path, draw, most, title in (
            (self.overlay, draw_overlay, ON_OVERLAY, f"{name}: {outlined}"),
            (
                self.contact_sheet,
                draw_contact_sheet,
                ON_SHEET,
                f"{name}: {outlined}, probability of cell beside",
            ),
        ):
            if path is not None:
                chosen = evenly(total, most)
                some = f"; {len(chosen)} of {total} sections" if len(chosen) < total else ""
                pairs = ((z, run.grey(z), run.cell(z)) for z in chosen)
                draw(pairs, run.plan.source.shape, path, title=f"{title}{some}", threshold=run.threshold)
        return notes


class Watched:
    """A run that will be looked at.

    Parameters
    ----------
    looks : Looks
        What is wanted.
    plan : RunPlan
        What is run.

    Attributes
    ----------
    sink : FiguresSink
        To be handed the sections of the result.
    findings : Findings
        To be told what the sections of the input show.
    """

    def __init__(self, looks: Looks, plan: RunPlan) -> None:
        from isbi_infer.report.figures import FiguresSink
        from isbi_infer.run.findings import Findings

        self._looks, self.plan = looks, plan
        self.sink = FiguresSink(plan.emit)
        self.findings = Findings(plan, every_section=True)

    def draw(
        self,
        source: Source,
        summary: RunSummary,
        contract: ModelContract,
        *,
        scores: Mapping[str, Any] | None = None,
        labels_name: str = "",
        errors: Errors | None = None,
        neurons: Source | None = None,
    ) -> tuple[str, ...]:
        """Draw what is wanted from the input, still open, and the result; see `Looks.draw` and `FinishedRun`."""
        from isbi_infer.report.run_report import FinishedRun
        from isbi_infer.volumes import open_source

        with open_source(summary.output) as result:
            run = FinishedRun(
                plan=self.plan,
                summary=summary,
                source=source,
                result=result,
                found=self.sink.sections,
                images=self.findings.figures(),
                threshold=threshold_of(contract),
                scores=scores,
                labels_name=labels_name,
                errors=errors,
                neurons=neurons,
            )
            return self._looks.draw(run)


def threshold_of(contract: ModelContract) -> float:
    """Return the probability above which a model's pixels are cell: its own, or one half where it names none."""
    return 0.5 if contract.threshold is None else float(contract.threshold)
