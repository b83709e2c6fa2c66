"""The panel that segments a layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from magicgui.widgets import CheckBox, ComboBox, FileEdit, FloatSpinBox
from napari.layers import Image
from napari.utils.colormaps import DirectLabelColormap

from isbi_infer.errors import UsageError
from isbi_infer.model.devices import device_names, precision_names
from isbi_infer.napari.jobs import Report
from isbi_infer.napari.layers import (
    RESULT,
    OutlinesOf,
    ShownSections,
    check_greyscale,
    is_lazy,
    pixel_size_of,
    pixels_of,
    placed_like,
)
from isbi_infer.napari.panel import JobPanel
from isbi_infer.napari.segmenting import Segmented, Wanted, segment_all, segment_shown
from isbi_infer.terminal import counted
from isbi_infer.volumes.pixel_size import PixelSize
from isbi_models import default_model, released_models

ALL, SHOWN = "all of them", "as they are shown"

_OUTLINE = (0.90, 0.62, 0.0, 1.0)  # Okabe and Ito's orange
_CLEAR = (0.0, 0.0, 0.0, 0.0)


class SegmentPanel(JobPanel):
    """Runs Segmenter on an image layer and puts probability, outlines and neurons on it.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Whose layers are segmented.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "Segment")
        self.layer = ComboBox(label="image", choices=self._layers, nullable=True)
        self.model = ComboBox(label="model", choices=list(released_models()), value=default_model().name)
        self.model_file = FileEdit(
            label="or a file", filter="Models (*.onnx *.pt)", nullable=True, value=None, mode="r"
        )
        self.provider = ComboBox(label="provider", choices=["auto", *device_names()])
        self.precision = ComboBox(label="precision", choices=["auto", *precision_names()])
        self.pixel_size = FloatSpinBox(label="pixel size (nm)", value=0, min=0, max=1000, step=0.5)
        self.pixel_size.tooltip = (
            "Side of a pixel: sections are resampled to the model's, and results back. Prefilled from the layer's "
            "scale and units; 0 takes the pixels as they are."
        )
        self.sections = ComboBox(label="sections", choices=[ALL, SHOWN])
        self.outlines = CheckBox(text="outlines", value=True)
        self.neurons = ComboBox(label="neurons", choices=["no", "of each section", "overlap", "multicut"])
        self.neurons.tooltip = (
            "Ids of cells: of each section by itself, or joined through the stack by either rule."
        )
        self.layer.changed.connect(self._prefill)
        self.end_with_controls(
            *(self.layer, self.model, self.model_file, self.provider, self.precision, self.pixel_size),
            *(self.sections, self.outlines, self.neurons),
        )
        self._wanted: Wanted | None = None
        self._shown: list[Any] = []
        napari_viewer.layers.selection.events.active.connect(self._follow)
        self._follow()

    def _layers(self, _: Any) -> list[tuple[str, Any]]:
        return [
            (layer.name, layer)
            for layer in self.viewer.layers
            if isinstance(layer, Image) and RESULT not in layer.metadata
        ]

    def _follow(self, _: Any = None) -> None:
        """Take the layer that was selected, where it is an image."""
        self.reset_choices()
        active, images = self.viewer.layers.selection.active, [layer for _, layer in self._layers(None)]
        if active in images:
            self.layer.value = active
        elif self.layer.value is None and images:
            self.layer.value = images[0]
        self._prefill()

    def _prefill(self, _: Any = None) -> None:
        layer = self.layer.value
        if layer is None:
            return
        size = pixel_size_of(layer)
        self.pixel_size.value = 0 if size is None else round(size.x_nm, 4)
        self.sections.value = SHOWN if is_lazy(layer) else ALL
        scaled = any(abs(side - 1) > 1e-9 for side in layer.scale[-2:])
        if size is None and scaled:
            self.say(
                f"layer {layer.name!r} has a scale of {layer.scale[-1]:g} without a unit of length: "
                "enter the pixel size"
            )

    def _pixel_size(self, layer: Any) -> PixelSize | None:
        """Return the layer's own size where the number is that, and the number otherwise."""
        own, side = pixel_size_of(layer), float(self.pixel_size.value)
        if own is not None and abs(side - own.x_nm) < 1e-4:
            return own
        return PixelSize(y_nm=side, x_nm=side, z_nm=own.z_nm if own else None) if side else None

    def begin(self) -> None:
        """Segment the layer that is chosen."""
        layer = self.layer.value
        if layer is None:
            raise UsageError(
                "no image layer to segment; open a stack, or File, Open Sample, isbi-infer for a synthetic one"
            )
        check_greyscale(layer)
        file = self.model_file.value
        neurons = self.neurons.value
        self._wanted = wanted = Wanted(
            layer=layer,
            model=self.model.value if file is None or str(file) in ("", ".") else str(file),
            provider=self.provider.value,
            precision=self.precision.value,
            pixel_size=self._pixel_size(layer),
            outlines=self.outlines.value,
            neurons=neurons != "no",
            link="none" if neurons in ("no", "of each section") else neurons,
        )
        if self.sections.value == ALL:
            self.run(partial(segment_all, wanted))
            return
        if wanted.neurons:
            raise UsageError("neurons are made of all sections; choose all of them, or no neurons")

        def ask(z: int) -> None:
            if self.job is not None:
                self.job.ask(z)

        sections = ShownSections(tuple(pixels_of(layer).shape), ask)
        self.run(partial(segment_shown, wanted, sections))

    def take(self, report: Report) -> None:
        """Put a result on its layer, or show a section that is there now."""
        assert self._wanted is not None
        if report.kind == "section":
            z, notes = report.value
            for layer in self._shown:
                layer.refresh(force=True)
            self.progress.max = self.progress.value = 1
            self.say("; ".join((f"section {z} is there; look at another one, or Cancel to end", *notes)))
            return
        found: Segmented = report.value
        lazily = isinstance(found.probability, ShownSections)
        self._shown = self._add(self._wanted.layer, found)
        if not lazily:
            sections = found.probability.shape[0] if found.probability.ndim == 3 else 1
            done = f"{counted(sections, 'section')} by {found.how['precision']} on {found.how['provider']}"
            self.say("; ".join((done, *found.notes)))

    def _add(self, below: Any, found: Segmented) -> list[Any]:
        probability = self.viewer.add_image(
            found.probability,
            **placed_like(below, "probability", found.how),
            contrast_limits=(0.0, 1.0),
            colormap="viridis",
            opacity=0.4,
            visible=found.neurons is None,  # which are to be seen on the image
            multiscale=False,
        )
        added = [probability]
        assert self._wanted is not None
        outlines = found.outlines
        if isinstance(found.probability, ShownSections) and self._wanted.outlines:
            outlines = OutlinesOf(found.probability, found.how["threshold"])
        if outlines is not None:
            added.append(
                self.viewer.add_labels(
                    outlines,
                    **placed_like(below, "outlines", {**found.how, "kind": "outlines"}),
                    colormap=DirectLabelColormap(color_dict={None: _CLEAR, 0: _CLEAR, 1: _OUTLINE}),
                    opacity=1.0,
                    multiscale=False,
                )
            )
        if found.neurons is not None:
            added.append(
                self.viewer.add_labels(
                    np.asarray(found.neurons),
                    **placed_like(
                        below,
                        "neurons",
                        {**found.how, "kind": "neurons", "link": self._wanted.link},
                    ),
                    opacity=0.35,
                )
            )
        return added


def panel_of(viewer: Any) -> SegmentPanel | None:
    """Return the panel that is open in a viewer; None where there is none."""
    for widget in viewer.window.dock_widgets.values():
        if isinstance(widget, SegmentPanel):
            return widget
    return None
