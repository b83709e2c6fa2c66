"""Figures that the released files carry in their contracts."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.store import Stored
from isbi_infer.model.contract import PRECISIONS, read_contract
from isbi_models import default_model

from .cells import table


def halo_error_table(_: Stored) -> Iterator[str]:
    """Write the largest error of a probability by halo, as measured when each released file was exported."""
    contracts = {
        PRECISIONS[name]: read_contract(file.path.read_bytes())
        for name, file in default_model().files.items()
    }
    halos = sorted({int(halo) for contract in contracts.values() for halo in contract.halo_error})
    exact = max(contract.halo for contract in contracts.values())
    rows = (
        [short, *(f"{contract.halo_error[str(halo)]:.2g}" for halo in halos), "0"]
        for short, contract in contracts.items()
    )
    return table(["halo", *map(str, halos), str(exact)], rows)
