"""Which sections weights have seen: those that they were trained on, and those of what they grew from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from isbi_infer.errors import ModelError
from isbi_train.config import TrainConfig

SEEN = "seen"
"""Where checkpoints and contracts hold the stacks of what weights began with and learnt from."""


@dataclass(frozen=True, slots=True)
class SeenStack:
    """One of the stacks that weights were trained on.

    Attributes
    ----------
    name : str
        In the list of stacks; empty of a single one.
    data_sha256 : dict of str to str
        Of its ``images`` and ``labels``.
    sections, held_out : str
        Which were trained on and which were not, such as "0:10,15:30" and "10:15".
    """

    name: str
    data_sha256: dict[str, str]
    sections: str
    held_out: str

    @classmethod
    def of(cls, name: str, data_sha256: Mapping[str, str], sections: int, train: TrainConfig) -> Self:
        """Describe a stack of which the settings of training say what is held out."""
        left_out = train.held_out(sections)
        return cls(
            name, dict(data_sha256), train.training_sections(sections), f"{left_out.start}:{left_out.stop}"
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the fields by name, as checkpoints and contracts hold them."""
        return asdict(self)


def stacks_of_data(data: Mapping[str, Any], train: TrainConfig) -> tuple[SeenStack, ...]:
    """Return the stacks that a checkpoint's run trained on itself.

    Parameters
    ----------
    data : mapping
        The checkpoint's ``data``.
    train : TrainConfig
        Its settings, which say what a single stack held out.

    Raises
    ------
    ModelError
        If the list is damaged.
    """
    listed = data.get("stacks")
    if listed is None:
        return (SeenStack.of("", data["sha256"], data["sections"], train),)
    try:
        return tuple(
            SeenStack(
                stack["name"],
                dict(stack["sha256"]),
                _without(stack["held_out"], stack["sections"]),
                stack["held_out"],
            )
            for stack in listed
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"the list of stacks that it was trained on is damaged ({error!r})") from error


def read_seen(facts: Mapping[str, Any]) -> tuple[SeenStack, ...]:
    """Return the stacks that stand under `SEEN` in a checkpoint's data or in a contract; ModelError if damaged."""
    try:
        return tuple(SeenStack(**plain) for plain in facts.get(SEEN, ()))
    except TypeError as error:
        raise ModelError(f"the list of stacks that it has seen is damaged ({error})") from error


def seen_by_contract(training: Mapping[str, Any]) -> tuple[SeenStack, ...]:
    """Return all stacks that an exported model has seen, by itself and through what it grew from.

    Parameters
    ----------
    training : mapping
        What its contract says of its training.

    Raises
    ------
    ModelError
        If that is damaged.
    """
    try:
        listed = training.get("stacks") or [{"name": "", "held_out": "", **training}]
        own = [
            SeenStack(
                str(stack["name"]), dict(stack["data_sha256"]), str(stack["sections"]), str(stack["held_out"])
            )
            for stack in listed
            if stack.get("data_sha256")
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"what its contract says of its training is damaged ({error!r})") from error
    return once((*own, *read_seen(training)))


def once(stacks: Iterable[SeenStack]) -> tuple[SeenStack, ...]:
    """Leave out stacks that stand there twice."""
    kept: list[SeenStack] = []
    for stack in stacks:
        if stack not in kept:
            kept.append(stack)
    return tuple(kept)


def is_seen(value: Any) -> bool:
    """Return whether a value can be what `SEEN` holds."""
    return isinstance(value, Sequence) and all(
        isinstance(stack, dict)
        and set(stack) == set(SeenStack.__dataclass_fields__)
        and isinstance(stack["data_sha256"], dict)
        and all(isinstance(part, str) for part in (*stack["data_sha256"].values(), *stack["data_sha256"]))
        and all(isinstance(stack[key], str) for key in ("name", "sections", "held_out"))
        for stack in value
    )


def _without(held_out: str, sections: int) -> str:
    start, stop = (int(part) for part in held_out.split(":"))
    return ",".join(f"{a}:{b}" for a, b in ((0, start), (stop, sections)) if a < b)
