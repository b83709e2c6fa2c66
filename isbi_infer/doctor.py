"""``isbi-infer doctor``: what is installed, what of it really runs, and the command that mends what does not."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from isbi_infer._version import __version__
from isbi_infer.backends.device import Device
from isbi_infer.backends.nvidia import list_gpus
from isbi_infer.errors import DependencyError, IsbiError, UsageError
from isbi_infer.model.devices import DEVICES, device_names, open_backend
from isbi_infer.terminal import counted, exit_codes
from isbi_infer.terminal.commands import GENERAL, RUNTIMES, Command, Debug, listed, new_app, version_option
from isbi_infer.terminal.words import beside

WHEELS = next(row.clashes for row in DEVICES if row.name == "cpu")

app = new_app()

_SECTION_PIXELS = 512**2
_SCORES = {"v_rand_thin": "V_rand", "v_info_thin": "V_info"}
_CPU_ONLY = "pip uninstall -y onnxruntime-gpu && pip install 'isbi-infer[cpu]'"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What it is about.
    ok : bool or None
        None where it is neither good nor bad.
    detail : str
        What was found, in one line.
    remedy : str or None
        The command that mends it.
    exit_code : int
        What the doctor leaves with when this is the first thing that is not ok.
    """

    name: str
    ok: bool | None
    detail: str
    remedy: str | None = None
    exit_code: int = DependencyError.exit_code


def check_packages() -> Iterator[Finding]:
    """Report what is installed, from its metadata; nothing is imported."""
    yield Finding("python", None, f"{platform.python_version()} at {sys.executable}, {platform.platform()}")
    yield Finding("isbi-infer", None, f"{__version__} in {Path(__file__).parent}")
    for package in ("numpy", "tifffile", "typer"):
        version = _version(package)
        mend = None if version else f"pip install {package}"
        yield Finding(package, version is not None, version or "not installed", mend)
    torch = _version("torch")
    yield Finding("torch", None, torch or "not installed; only TorchScript models and training need it")


def installed_runtimes() -> list[metadata.Distribution]:
    """List the wheels that provide the module onnxruntime."""
    found = []
    for name in WHEELS:
        try:
            found.append(metadata.distribution(name))
        except metadata.PackageNotFoundError:
            continue
    return found


def check_runtimes(wheels: Sequence[metadata.Distribution]) -> Iterator[Finding]:
    """Report which onnxruntime there is; two wheels overwrite each other, unseen by ``pip check``."""
    from isbi_infer.backends.onnxruntime import import_onnxruntime

    names = [str(wheel.metadata["Name"]) for wheel in wheels]
    again = [
        f"pip install --force-reinstall --no-deps {n}=={w.version}"
        for n, w in zip(names, wheels, strict=True)
    ]
    for wheel, name, mend in zip(wheels, names, again, strict=True):
        lost = lost_files(wheel)
        more = f", {len(lost)} of its files are missing or another wheel's" if lost else ""
        yield Finding(name, not lost, wheel.version + more, mend if lost and len(wheels) == 1 else None)
    if len(wheels) > 1:
        extra = "gpu" if "onnxruntime-gpu" in names else "cpu"
        yield Finding(
            "onnxruntime",
            False,
            f"{' and '.join(names)} are both installed and overwrite each other",
            f"pip uninstall -y {' '.join(names)} && pip install 'isbi-infer[{extra}]'",
        )
        return
    try:
        import_onnxruntime(WHEELS)
    except DependencyError as error:
        if wheels:
            yield Finding("onnxruntime", False, f"cannot be imported ({error.__cause__})", again[0])
        else:
            yield Finding("onnxruntime", False, "not installed", "pip install 'isbi-infer[cpu]'")
    else:
        if not wheels:
            yield Finding("onnxruntime", None, "there, but not as an installed wheel, so of unknown version")


def lost_files(wheel: metadata.Distribution) -> list[str]:
    """List files of a wheel that are gone or of another size than it installed."""
    lost = []
    for file in wheel.files or ():
        if file.size is not None and file.parts[0] == "onnxruntime":
            path = Path(str(file.locate()))
            if not path.is_file() or path.stat().st_size != file.size:
                lost.append(str(file))
    return lost


def check_libraries(folders: Iterable[Path], ldconfig: str) -> Finding:
    """Report where the CUDA and cuDNN libraries are: in these folders, or where ``ldconfig -p`` says."""
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
    cached = (Path(line.split("=> ")[1]) for line in ldconfig.splitlines() if "=> " in line)
    files += [file for file in cached if file.is_file()]
    places: dict[str, list[str]] = {}
    for library in ("cudart", "cublas", "cufft", "curand", "cudnn"):
        names = re.compile(rf"(lib{library}\.so(\.\d+)*|{library}(64)?_\d+\.dll)")
        place = next((f"in {file.parent}" for file in files if names.fullmatch(file.name)), "not found")
        places.setdefault(place, []).append("cuDNN" if library == "cudnn" else library)
    return Finding("cuda libraries", None, "; ".join(f"{', '.join(of)} {at}" for at, of in places.items()))


def library_folders() -> Iterator[Path]:
    """List where CUDA libraries may lie: in pip's nvidia packages, then on the loader's paths."""
    for root in dict.fromkeys(sys.path):
        for kind in ("*/lib", "*/bin", "*/bin/x86_64"):
            yield from sorted(Path(root, "nvidia").glob(kind))
    for variable in ("LD_LIBRARY_PATH", "PATH" if os.name == "nt" else "DYLD_LIBRARY_PATH"):
        yield from (Path(part) for part in os.environ.get(variable, "").split(os.pathsep) if part)


def check_device(row: Device, models: Mapping[str, bytes], remedy: str | None) -> Finding:
    """Run a tile in each precision of a device; one without a remedy does not have to run.

    Parameters
    ----------
    row : Device
        Of the table.
    models : mapping of str to bytes
        Whole ONNX files, by the precision of each.
    remedy : str or None
        The command that mends a device that runs in none.
    """
    import numpy as np

    from isbi_infer.model.contract import CONTRACT_KEY, parse_contract
    from isbi_infer.model.file import read_model_file

    runs, failure = [], None
    for arithmetic in row.arithmetic:
        if arithmetic.file not in models:
            continue
        content = models[arithmetic.file]
        try:
            backend = open_backend(content, row, arithmetic)
            # Not its digest: that the model is damaged says nothing about the device.
            contract = parse_contract(read_model_file(content).metadata[CONTRACT_KEY])
            shape = (1, contract.input_channels, contract.stride, contract.stride)
            backend.run(np.zeros(shape, np.float32))
        except IsbiError as error:
            failure = failure or error
        else:
            runs.append(arithmetic.name)
    if runs or failure is None:
        return Finding(row.name, True, f"runs in {', '.join(runs)}" if runs else "has no model to try")
    reason = str(failure).partition("; run: ")[0].removeprefix(f"provider {row.name!r} ")
    if remedy is None:
        return Finding(row.name, None, f"compiled in, does not run here ({reason})")
    return Finding(row.name, False, reason, remedy, failure.exit_code)


def check_devices(models: Mapping[str, bytes], *, gpu_found: bool) -> Iterator[Finding]:
    """Run each device whose runtime is installed, and report what is missing of those that could be used."""
    from isbi_infer.backends.onnxruntime import import_onnxruntime
    from isbi_infer.backends.wheels import installed_wheels

    available = import_onnxruntime(WHEELS).get_available_providers()
    yield Finding("compiled in", None, ", ".join(available))
    for name in device_names():
        row = next((row for row in DEVICES if row.name == name and "onnx" in row.formats), None)
        if row is None:
            continue
        wheels = installed_wheels(row.wheels)
        there = row.runtime_name in available if "onnxruntime" in row.clashes else wheels
        if there:
            yield check_device(
                row, models, _CPU_ONLY if row.repair and _lacks(row, gpu_found) else row.repair
            )
        elif wheels and row.repair:
            detail = f"not compiled in, though {wheels[0]} is installed; its files are another wheel's"
            yield Finding(name, False, detail, f"pip install --force-reinstall --no-deps {wheels[0]}")
        elif row.kind == "gpu" and row.in_auto and gpu_found:
            yield Finding(name, None, "not compiled in; 'isbi-infer[gpu]' would use the GPU")


def _lacks(row: Device, gpu_found: bool) -> bool:
    return row.kind == "gpu" and not gpu_found


def check_choice(model: Path | None) -> Iterator[Finding]:
    """Report what "auto" takes, for a run of one section of 512 x 512 pixels and for one of a thousand."""
    from isbi_infer.model.opening import open_model

    for count in (1, 1000):
        try:
            opened = open_model(model, "auto", "auto", count * _SECTION_PIXELS)
        except IsbiError as error:
            yield Finding("auto", False, str(error), None, error.exit_code)
            return
        took = f"{opened.backend.device.name} {opened.backend.arithmetic.name}"
        yield Finding("auto", None, f"takes {took} for {counted(count, 'section')} of 512 x 512")


def check_machine() -> Iterator[Finding]:
    """Report what memory and how many cores this process may use."""
    from isbi_infer.backends.cores import available_cores
    from isbi_infer.plan.memory import available_memory

    yield Finding("memory", None, f"{available_memory() / 2**30:.1f} GiB free for this process")
    yield Finding("cores", None, f"{available_cores()} of {os.cpu_count()} may be used")


def check_model(model: Path | None, *, runs: bool) -> Iterator[Finding]:
    """Open a model on the CPU, with all checks of a run, and sum its contract up; None is the released one."""
    from isbi_infer.model.contract import PRECISIONS
    from isbi_infer.model.opening import find_released, open_model
    from isbi_models import released_models

    if not runs:
        yield Finding("model", None, "not opened, for lack of an onnxruntime that runs")
        return
    try:
        released = find_released(model)
        opened = open_model(model, "cpu", "fp32" if released else "auto")
    except UsageError as error:
        yield Finding("model", False, str(error), "isbi-infer models", error.exit_code)
        return
    except IsbiError as error:
        mend = "pip install --force-reinstall --no-deps isbi-infer"
        if model is not None and model.suffix:
            mend = f"isbi-export {shlex.quote(str(model.with_suffix('.pth')))}"
        yield Finding("model", False, str(error), mend, error.exit_code)
        return
    names = {file.sha256: r.name for r in released_models().values() for file in r.files.values()}
    release = names.get(opened.sha256)
    origin = f"as released ({release})" if release else "not a released model"
    yield Finding("model", True, f"{opened.path}, sha256 {opened.sha256[:16]}..., {origin}")
    contract = opened.contract
    exact = "exact" if contract.exact else f"not exact: {contract.not_exact_because[0]}"
    yield Finding(
        "contract",
        True,
        f"stride {contract.stride}, halo {contract.halo}, border {contract.border}, {exact}; "
        f"{contract.normalisation}, {PRECISIONS[contract.precision]}, {contract.polarity} = 1",
    )
    yield Finding("scores", None, _scores(contract.provenance.get("scores")) or "none in the contract")


def _scores(found: object) -> str:
    """Name the scores that a contract holds; how they were calibrated stands in the contract."""
    entries = found.items() if isinstance(found, dict) else ()
    return ", ".join(
        f"{_SCORES.get(name, name)} {f'{value:.4g}' if isinstance(value, float) else value}"
        for name, value in entries
        if not isinstance(value, dict | list)
    )


def examine(model: Path | None) -> Iterator[Finding]:
    """Look at everything, with this model or the released one, one finding after the other."""
    packages = list(check_packages())
    yield from packages
    if any(finding.ok is False for finding in packages):
        return  # nothing else can be looked at without them
    wheels = installed_runtimes()
    runtimes = list(check_runtimes(wheels))
    yield from runtimes
    gpus = list_gpus()
    yield Finding("gpu", None, "; ".join(gpus) or "no NVIDIA driver or GPU found (nvidia-smi)")
    if gpus or any("gpu" in str(wheel.metadata["Name"]) for wheel in wheels):
        yield check_libraries(
            library_folders(), _output("ldconfig", "-p") or _output("/sbin/ldconfig", "-p") or ""
        )
    yield from check_machine()
    runs = all(finding.ok is not False for finding in runtimes)
    models = list(check_model(model, runs=runs))
    yield from models
    if runs:
        own = model if models[0].ok else None
        yield from check_devices(_models(own), gpu_found=bool(gpus))
        if models[0].ok:
            yield from check_choice(model)


def _models(model: Path | None) -> dict[str, bytes]:
    """Return whole ONNX files by their precision: this one, or all of the released model, also for what is no ONNX."""
    from isbi_infer.model.contract import read_contract
    from isbi_infer.model.opening import find_released
    from isbi_models import default_model

    released = find_released(model)
    if model is None or released is not None or model.suffix.lower() != ".onnx":
        files = (released or default_model()).files
        return {name: file.path.read_bytes() for name, file in files.items()}
    content = model.read_bytes()
    return {read_contract(content).precision: content}


@app.command(
    cls=Command,
    epilog=listed(
        "Examples",
        ("isbi-infer doctor", "Try the released model on all devices."),
        ("isbi-infer doctor --model mine.onnx", "Try another one."),
        ("isbi-infer doctor --json", "To send along with a report of a fault."),
    ),
)
def doctor(
    model: Annotated[Path | None, typer.Option(help="Model to try. [default: the released model]")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=GENERAL)
    ] = False,
    debug: Debug = False,
    _: Annotated[bool, version_option("isbi-infer", *RUNTIMES)] = False,
) -> None:
    """Report what is installed and what of it really runs; end with the command that mends what does not."""
    with exit_codes("isbi-infer doctor", debug=debug):
        findings = []
        for finding in examine(model):
            findings.append(finding)
            if not as_json:
                _print(finding)
        wrong = [finding for finding in findings if finding.ok is False]
        remedies = list(dict.fromkeys(finding.remedy for finding in wrong if finding.remedy))
        exit_code = wrong[0].exit_code if wrong else 0
        if as_json:
            plain = [{key: asdict(f)[key] for key in ("name", "ok", "detail", "remedy")} for f in findings]
            typer.echo(json.dumps({"exit_code": exit_code, "findings": plain, "remedies": remedies}))
        elif wrong:
            typer.echo("\n".join(("to mend this, run:", *(f"    {remedy}" for remedy in remedies))))
        else:
            typer.echo("all is well")
    raise typer.Exit(exit_code)


def _print(finding: Finding) -> None:
    mark, colour = {True: ("ok", "green"), None: ("-", None), False: ("WRONG", "red")}[finding.ok]
    detail = " ".join(finding.detail.split())
    head = f"{mark:5}  {finding.name:20}  "
    line = beside(head, detail, sys.stdout)
    if colour and "NO_COLOR" not in os.environ:
        line = line.replace(mark, typer.style(mark, fg=colour), 1)
    typer.echo(line)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """Run a tool of the system; None where it is not there, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None
