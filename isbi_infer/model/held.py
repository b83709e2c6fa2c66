"""An open model that is held by its owner, in whichever process that is asked for it."""

from __future__ import annotations

import os

from isbi_infer.errors import UsageError
from isbi_infer.model.opening import OpenModel, open_model


class HeldModel:
    """Holds an open model; opens the same one again in a process that was forked off, where its threads are not.

    Parameters
    ----------
    opened : OpenModel
        The model, as it is held in this process; see `isbi_infer.backends.forks` for what becomes of it in others.
    """

    def __init__(self, opened: OpenModel) -> None:
        self._opened: OpenModel | None = opened
        self._process = os.getpid()
        self._path = opened.path.absolute()  # the working folder may be another one by then
        self._sha256 = opened.sha256
        self._device, self._precision = opened.backend.device.name, opened.backend.arithmetic.name

    @property
    def model(self) -> OpenModel:
        """The model: the same file, on the same device, in the same arithmetic.

        Raises
        ------
        UsageError
            If it was closed, or its file is another one by now.
        """
        if self._opened is None:
            raise UsageError("this Segmenter is closed; make another one")
        if self._process != os.getpid():
            again = open_model(self._path, self._device, self._precision)
            check_same_file(self._path, again.sha256, self._sha256)
            self._opened, self._process = again, os.getpid()
        return self._opened

    def close(self) -> None:
        """Release the model."""
        self._opened = None


def check_same_file(path: object, found: str, expected: str) -> None:
    """Raise UsageError unless a model's SHA-256 is that of the file that was opened before.

    Parameters
    ----------
    path : path, str or None
        What the message calls the model; None is the released one.
    found, expected : str
        In hexadecimal digits.
    """
    if found != expected:
        raise UsageError(
            f"{path or 'the released model'} is not the file that it was: sha256 {found}, was {expected}"
        )
