"""What both panels have in common: a job, its progress, one line that says how it is, and a button that cancels it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from magicgui.widgets import Container, Label, ProgressBar, PushButton
from qtpy.QtCore import QTimer

from isbi_infer.errors import IsbiError
from isbi_infer.napari.jobs import ENDS, Job, Report
from isbi_infer.terminal import printable

_LOOK_MS = 50  # between looks at the reports of a job


class JobPanel(Container):  # type: ignore[misc]
    """A panel with one job at a time.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose panel it is.
    start : str
        What the button says that begins.
    """

    def __init__(self, viewer: Any, start: str) -> None:
        super().__init__(scrollable=False)
        self.viewer = viewer
        self.job: Job | None = None
        self.start_button = PushButton(text=start)
        self.cancel_button = PushButton(text="Cancel", enabled=False)
        self.progress = ProgressBar(value=0, min=0, max=1, visible=False, label="")
        self.status = Label(value="", label="")
        self.status.native.setWordWrap(True)
        self.start_button.changed.connect(self._on_start)
        self.cancel_button.changed.connect(self.cancel)
        self._timer = QTimer(self.native)
        self._timer.setInterval(_LOOK_MS)
        self._timer.timeout.connect(self.look)
        self.native.destroyed.connect(_Leaving(self.__dict__))

    def end_with_controls(self, *controls: Any) -> None:
        """Lay the panel out: its own controls, then those that all panels have."""
        for control in controls:
            self.append(control)
        buttons = Container(
            widgets=[self.start_button, self.cancel_button], layout="horizontal", labels=False, label=""
        )
        for control in (buttons, self.progress, self.status):
            self.append(control)

    def say(self, text: str) -> None:
        """Show one line below the buttons."""
        self.status.value = printable(text)

    @property
    def said(self) -> str:
        """The line that is shown."""
        return str(self.status.value)

    def run(self, work: Callable[[Job], None]) -> None:
        """Begin a job."""
        self.job = Job(work)
        self.start_button.enabled, self.cancel_button.enabled = False, True
        self.progress.visible, self.progress.value, self.progress.max = True, 0, 0
        self._timer.start()
        self.job.start()

    def cancel(self) -> None:
        """Ask the job to stop."""
        if self.job is not None:
            self.job.cancel()
            self.cancel_button.enabled = False

    def look(self) -> None:
        """Take up what the job reports."""
        if self.job is None:
            return
        for report in self.job.reports():
            if report.kind == "progress":
                self.progress.max, self.progress.value = report.value[1], report.value[0]
            elif report.kind in ENDS:
                self._end(report)
            elif report.kind == "note":
                self.say(report.text)
            else:
                self.take(report)

    def take(self, report: Report) -> None:
        """Take up a result."""

    def begin(self) -> None:
        """Begin what the button asks for; IsbiErrors become one line."""

    def _on_start(self) -> None:
        try:
            self.begin()
        except IsbiError as error:
            self.say(str(error))

    def _end(self, report: Report) -> None:
        self._timer.stop()
        self.job = None
        self.start_button.enabled, self.cancel_button.enabled = True, False
        self.progress.visible = False
        if report.text:
            self.say(report.text)


class _Leaving:
    """Cancels the job of a panel that is closed, without holding the panel."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def __call__(self, *_: object) -> None:
        job = self._state.get("job")
        if job is not None:
            job.cancel()
