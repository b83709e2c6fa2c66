"""The options on labels that programs share: each is declared once, and stands under the heading of its command."""

from __future__ import annotations

from typing import Any, Literal

LabelsAre = Literal["cells", "membranes", "ids"]
"""What labels above 0 mark."""


def labels_are_option(heading: str | None = None) -> Any:
    """Return the option ``--labels-are``; its type is that of the kinds which a command takes."""
    import typer  # scores from Python do without

    return typer.Option(
        help="What labels above 0 mark: cells, membranes, or ids of cells.", rich_help_panel=heading
    )


def ignore_option(heading: str | None = None) -> Any:
    """Return the option ``--ignore``, a number or nothing."""
    import typer

    return typer.Option(
        help="Value of labels that nobody knows; left out of the scores.", rich_help_panel=heading
    )
