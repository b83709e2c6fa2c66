"""The panel that saves corrected labels and trains on them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox, FileEdit, LineEdit, SpinBox
from napari.layers import Image, Labels

from isbi_infer.errors import UsageError
from isbi_infer.napari.fine_tuning import STEPS, FineTuning, fine_tune
from isbi_infer.napari.jobs import Report
from isbi_infer.napari.layers import RESULT, pixel_size_of
from isbi_infer.napari.panel import JobPanel
from isbi_infer.napari.segment_panel import panel_of
from isbi_models import default_model, released_models


class FineTunePanel(JobPanel):
    """Saves corrected labels, starts ``isbi-train fit --init`` on them, and offers the model that comes of it.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Whose layers are trained on.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "Save and fine-tune")
        self.image = ComboBox(label="image", choices=partial(self._layers, Image), nullable=True)
        self.labels = ComboBox(label="corrected labels", choices=partial(self._layers, Labels), nullable=True)
        self.sections = LineEdit(label="sections", value="all")
        self.sections.tooltip = "Those that you corrected, such as 0-4, 8; at least two. Others are left out."
        self.model = ComboBox(label="start from", choices=list(released_models()), value=default_model().name)
        self.checkpoint = FileEdit(
            label="or a checkpoint", filter="Checkpoints (*.pth)", nullable=True, value=None, mode="r"
        )
        self.folder = FileEdit(label="folder", mode="d", nullable=True, value=None)
        self.folder.tooltip = "Gets image.tif, labels.tif and a folder run with the checkpoints."
        self.steps = SpinBox(label="steps", value=STEPS, min=1, max=1_000_000)
        self.end_with_controls(
            *(self.image, self.labels, self.sections, self.model, self.checkpoint, self.folder, self.steps)
        )
        self._follow()
        napari_viewer.layers.selection.events.active.connect(self._follow)

    def _layers(self, kind: Any, _: Any) -> list[tuple[str, Any]]:
        return [
            (layer.name, layer)
            for layer in self.viewer.layers
            if isinstance(layer, kind) and layer.metadata.get(RESULT, {}).get("kind") in (None, "neurons")
        ]

    def _follow(self, _: Any = None) -> None:
        """Take the labels layer that was selected, and the image that it was made of."""
        self.reset_choices()
        active = self.viewer.layers.selection.active
        for control, kind in ((self.image, Image), (self.labels, Labels)):
            known = [layer for _, layer in self._layers(kind, None)]
            if active in known:
                control.value = active
            elif control.value is None and known:
                control.value = known[-1] if kind is Labels else known[0]
        of = self.labels.value and self.labels.value.metadata.get(RESULT, {}).get("of")
        if of and of in [name for name, _ in self._layers(Image, None)]:
            self.image.value = self.viewer.layers[of]

    def begin(self) -> None:
        """Save and train."""
        image, labels, folder = self.image.value, self.labels.value, self.folder.value
        if image is None or labels is None:
            raise UsageError("choose an image and a layer of corrected labels")
        if folder is None or str(folder) in ("", "."):
            raise UsageError("choose a folder for the labels and the run")
        checkpoint = self.checkpoint.value
        wanted = FineTuning(
            image=image,
            labels=labels,
            sections=self.sections.value,
            folder=Path(folder),
            init=self.model.value if checkpoint is None or str(checkpoint) in ("", ".") else str(checkpoint),
            pixel_size=pixel_size_of(image),
            steps=self.steps.value,
        )
        self.run(partial(fine_tune, wanted))

    def take(self, report: Report) -> None:
        """Offer the model that was trained."""
        path = Path(report.value)
        panel = panel_of(self.viewer)
        where = "run Segment again" if panel is not None else "choose it in Segment membranes"
        if panel is not None:
            panel.model_file.value = path
        self.say(f"trained: {path}; {where}")
