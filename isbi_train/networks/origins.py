"""What weights grew from, and under whose terms they therefore come.

Who fine-tunes a model, or learns from what it says, makes something that its terms go along with. So every checkpoint
lists what it began with and learnt from, and so does the contract of every file that is made of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from isbi_infer.errors import ModelError
from isbi_infer.model.contract import ModelContract, read_contract
from isbi_models import ReleasedModel, released_models
from isbi_train.data.download import PIXELS_SHA256, TERMS
from isbi_train.networks.checkpoint import Checkpoint, Weights, file_sha256, load_checkpoint

ORIGINS = "origins"
_NON_COMMERCIAL = re.compile(r"(?i)non-?\s?commercial|(?<![a-z])NC(?![a-z])")
_DOI = re.compile(r"10\.\d{4,9}/\S+[^\s.,;)]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A model that weights grew from, or data that they were trained on.

    Attributes
    ----------
    name : str
        Of the released model, or of the data.
    licence : str
        SPDX identifier; empty where there is none.
    terms, citation : str
        In words; empty where nothing is known.
    """

    name: str
    licence: str = ""
    terms: str = ""
    citation: str = ""

    @property
    def non_commercial(self) -> bool:
        """Whether its terms exclude commercial use."""
        return not allows_commercial_use(f"{self.licence} {self.terms}")

    @property
    def cites(self) -> tuple[tuple[str, str], ...]:
        """Text and DOI of each publication of the citation, which semicolons part, that has one."""
        parts = self.citation.split("; ")
        return tuple((part, found[0]) for part in parts if (found := _DOI.search(part)))

    @property
    def named(self) -> str:
        """Name and terms, in a line."""
        said = "; ".join(part for part in (self.terms.rstrip("."), self.licence) if part)
        return f"{self.name} ({said or 'no terms known'})"

    def __str__(self) -> str:
        cited = f"; publications cite {self.citation.rstrip('.')}" if self.citation else ""
        return f"{self.named.removesuffix(')')}{cited})"

    def to_plain(self) -> dict[str, str]:
        """Return the fields by name, as checkpoints and contracts hold them."""
        return asdict(self)


ISBI_2012 = Origin(name="the ISBI 2012 challenge data", terms=TERMS)


def allows_commercial_use(words: str) -> bool:
    """Return whether an SPDX identifier or terms in words say nothing against commercial use."""
    return _NON_COMMERCIAL.search(words) is None


def check_registered(path: Path, model: ReleasedModel) -> None:
    """Raise ModelError if a file is not the checkpoint that the registry has of a released model."""
    sha256 = file_sha256(path)
    if sha256 != model.checkpoint.sha256:
        raise ModelError(
            f"{path}: is not the registered checkpoint of {model.name} (sha256 {sha256[:12]}..., expected "
            f"{model.checkpoint.sha256[:12]}...); install isbi-infer again"
        )


def origins_of(weights: Weights, sha256: str) -> tuple[Origin, ...]:
    """Find under whose terms weights come.

    Parameters
    ----------
    weights : Weights
        A released model's are recognised by themselves, too, wherever they were saved again.
    sha256 : str
        Of their file.

    Returns
    -------
    tuple of Origin
        A released model, stacks of training data with terms, and what the weights began with and learnt from, in turn;
        each once.

    Raises
    ------
    ModelError
        If what the file lists is damaged.
    """
    released = [
        model
        for model in released_models().values()
        if sha256 == model.checkpoint.sha256 or _same_weights(weights, model)
    ]
    return _once((*map(_of_released, released), *_of_data(weights.data or {})))


def origins_of_contract(contract: ModelContract) -> tuple[Origin, ...]:
    """Find under whose terms an exported model comes; see `origins_of`."""
    training = contract.provenance.get("training", {})
    if not isinstance(training, Mapping):
        return ()
    released = [
        model
        for model in released_models().values()
        if training.get("checkpoint_sha256") == model.checkpoint.sha256
    ]
    data = {"sha256": training.get("data_sha256"), ORIGINS: training.get(ORIGINS, [])}
    return _once((*map(_of_released, released), *_of_data(data)))


def origins_of_files(models: Iterable[Path]) -> tuple[Origin, ...]:
    """Find under whose terms exported files come; ModelError if one cannot be read."""
    found: list[Origin] = []
    for path in models:
        try:
            found += origins_of_contract(read_contract(path.read_bytes()))
        except (OSError, ModelError) as error:
            raise ModelError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return _once(found)


def _of_released(model: ReleasedModel) -> Origin:
    return Origin(name=model.name, licence=model.licence, terms=model.terms, citation=model.citation)


def _same_weights(weights: Weights, model: ReleasedModel) -> bool:
    path = model.checkpoint.path
    if not path.is_file() or not weights.state_dict:
        return False
    released = _kept(path)
    if released.network.shapes != weights.network.shapes:
        return False
    return all(
        name.endswith("num_batches_tracked") or torch.equal(weight, weights.state_dict[name].to(weight.dtype))
        for name, weight in released.state_dict.items()
    )


@cache  # an export asks several times for each file, and to read them takes a third of it
def _kept(path: Path) -> Checkpoint:
    return load_checkpoint(path)


def _is_of_the_challenge(facts: Mapping[str, Any]) -> bool:
    """Return whether the facts of a stack say that its pixels are those of the ISBI 2012 challenge."""
    digests = facts.get("sha256")
    return isinstance(digests, Mapping) and digests.get("images") == PIXELS_SHA256["train-volume.tif"]


def _of_data(data: Mapping[str, Any]) -> list[Origin]:
    found = [ISBI_2012] if _is_of_the_challenge(data) else []
    for stack in data.get("stacks", ()):  # of a run on several stacks, each with its terms
        if stack.get("terms") or stack.get("citation"):
            found.append(_read({key: stack.get(key, "") for key in ("name", "terms", "citation")}))
        elif _is_of_the_challenge(stack):
            found.append(ISBI_2012)
    return [*found, *map(_read, data.get(ORIGINS, ()))]


def _read(plain: Any) -> Origin:
    try:
        origin = Origin(**plain)
    except TypeError as error:
        raise ModelError(f"damaged list of origins: {error}") from error
    if not all(isinstance(value, str) for value in origin.to_plain().values()):
        raise ModelError(f"damaged list of origins: {plain!r}")
    return origin


def _once(found: Iterable[Origin]) -> tuple[Origin, ...]:
    """Leave out what stands there twice, and the data of a released model that says the same of itself."""
    kept = list(dict.fromkeys(found))
    if any(origin.name in released_models() for origin in kept):
        kept = [origin for origin in kept if origin != ISBI_2012]
    return tuple(kept)
