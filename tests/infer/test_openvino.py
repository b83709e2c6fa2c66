"""OpenVINO as a backend: precisions proved, silent, exact, stopped at once, and all that keeps it from running."""

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from precisions import content_of

from isbi_export.graph.raw_io import with_raw_io
from isbi_infer import DependencyError, ModelError, Segmenter
from isbi_infer.backends.base import Arithmetic
from isbi_infer.backends.cores import available_cores, processor_name
from isbi_infer.backends.openvino import OpenVinoModel, native_precisions
from isbi_infer.model.devices import open_backend, rows
from isbi_models import released_models

if importlib.util.find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)

ROW = next(rows("onnx", "openvino"))
NATIVE = native_precisions(ROW)
MODEL = content_of("float32")


def arithmetic(name):
    return next(a for a in ROW.arithmetic if a.name == name)


def opened(name, threads=None):
    return open_backend(content_of(arithmetic(name).file), ROW, arithmetic(name), threads)


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def changed(change):
    """Return the released file with its graph changed."""
    proto = onnx.load_from_string(MODEL)
    change(proto)
    return proto.SerializeToString()


def run_python(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def fp32():
    return opened("fp32")


@pytest.fixture(scope="module")
def baseline():
    """The float32 file on ONNX Runtime."""
    return open_backend(MODEL, "cpu")


@pytest.mark.parametrize(
    ("name", "kinds", "largest"),
    [
        ("fp32", {"f32"}, 1e-5),
        ("bf16", {"bf16"}, 0.03),
        ("fp16", {"f16"}, 2e-2),
        ("int8", {"u8", "bf16" if "bf16" in NATIVE else "f32"}, 0.2),
    ],
)
def test_convolutions_run_in_the_precision_that_was_asked_for(baseline, name, kinds, largest):
    if name not in NATIVE:
        pytest.skip(f"{processor_name()} has no {name}")
    model = opened(name)
    assert set(model.convolutions) == kinds
    assert sum(model.convolutions.values()) >= 19
    image_NCYX = values(1, 1, 160, 208)
    found, expected = model.run(image_NCYX), baseline.run(image_NCYX)
    assert found.dtype == np.float32
    difference = np.abs(found - expected).max()
    assert difference < largest
    assert (difference > 1e-5) == (name != "fp32")


def test_the_table_names_what_this_processor_does_not_emulate():
    assert {"fp32", "int8"} <= set(NATIVE) <= {a.name for a in ROW.arithmetic}
    assert list(NATIVE) == [a.name for a in ROW.arithmetic if a.name in NATIVE]
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    if "flags" in flags:
        assert ("bf16" in NATIVE) == any(f in flags for f in ("avx512_bf16", "amx_bf16", "avx_ne_convert"))


@pytest.mark.skipif("fp16" not in NATIVE, reason="fp16 is emulated anyway")
def test_a_precision_that_the_processor_would_emulate_is_refused():
    """The real thing: oneDNN, told to use no instructions newer than those of 2019."""
    code = (
        "from isbi_infer.backends.openvino import native_precisions\n"
        "from isbi_infer.errors import DependencyError\n"
        "from isbi_infer.model.devices import open_backend, rows\n"
        "import onnx\n"
        "from isbi_export.graph.float16 import half_precision\n"
        "from isbi_models import default_model\n"
        "row = next(rows('onnx', 'openvino'))\n"
        "assert 'fp16' not in native_precisions(row)\n"
        "half = next(a for a in row.arithmetic if a.name == 'fp16')\n"
        "try:\n"
        "    open_backend(half_precision(onnx.load(default_model().path)).SerializeToString(), row, half)\n"
        "except DependencyError as error:\n"
        "    print(error)\n"
    )
    done = run_python(code, ONEDNN_MAX_CPU_ISA="AVX512_CORE_VNNI")
    assert done.stdout.startswith("precision 'fp16' was asked for"), done.stderr
    assert "would emulate it; use --precision int8, " in done.stdout


@pytest.mark.parametrize(
    ("content", "asked"), [("float32", "int8"), ("int8", "fp32")], ids=["int8 of fp32", "fp32 of int8"]
)
def test_a_file_that_is_not_of_the_precision_is_refused_by_what_was_compiled(content, asked):
    wrong = Arithmetic(name=asked, file=content, memory=1.0)
    with pytest.raises(DependencyError, match=rf"'{asked}' was asked for, but openvino \S+ computes in"):
        open_backend(content_of(content), ROW, wrong)


@pytest.mark.parametrize("provider", ["openvino", "auto"])
@pytest.mark.parametrize("asked", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("named", ["int8", "float32"])
def test_the_file_of_another_precision_is_computed_in_the_one_that_was_asked_for(
    tmp_path, named, asked, provider
):
    """Also where its own file can be computed in several."""
    if asked not in NATIVE:
        pytest.skip(f"{processor_name()} has no {asked}")
    files = released_models()["isbi2012-unet-b32"].files
    for each in ("int8", "float32"):
        shutil.copy(files[each].path, tmp_path)
    segmenter = Segmenter(
        tmp_path / files[named].path.name, provider=provider, precision=asked, pixels=10**12
    )
    plan = segmenter.plan((64, 64))
    assert (segmenter.provider, segmenter.precision, plan.precision) == ("openvino", asked, asked)
    assert segmenter.contract.precision == ("int8" if asked == "int8" else "float32")


def test_it_has_the_interface_of_every_backend(fp32):
    assert fp32.device is ROW
    assert fp32.arithmetic.name == "fp32"
    assert fp32.workers == available_cores()
    assert (fp32.inputs, fp32.outputs) == (["image"], ["probability"])
    assert fp32.version.startswith(f"openvino {importlib.metadata.version('openvino')}")
    assert opened("fp32", threads=2).workers == 1


def test_results_go_where_they_are_wanted(fp32):
    image_NCYX = values(1, 1, 48, 64)
    out = np.full_like(image_NCYX, np.nan)
    assert fp32.run(image_NCYX, out=out) is out
    assert (out == fp32.run(image_NCYX)).all()
    assert np.isfinite(out).all()


def test_results_stay_when_the_next_batch_is_computed(fp32):
    first = fp32.run(values(1, 1, 48, 64))
    before = first.copy()
    fp32.run(values(1, 1, 48, 64, seed=1))
    assert (first == before).all()


def test_inputs_may_be_views_and_read_only(fp32):
    image_NCYX = values(1, 1, 96, 128)
    view = image_NCYX[:, :, ::2, ::2]
    expected = fp32.run(view.copy())
    assert (fp32.run(view) == expected).all()
    frozen = view.copy()
    frozen.setflags(write=False)
    assert (fp32.run(frozen) == expected).all()


@pytest.mark.parametrize("name", NATIVE)
def test_batches_threads_and_callers_change_no_bit(name):
    model, image_NCYX = opened(name), values(3, 1, 112, 96)
    expected = np.concatenate([model.run(image_NCYX[i : i + 1]) for i in range(3)])
    assert (model.run(image_NCYX[:2]) == expected[:2]).all()
    assert (model.run(image_NCYX) == expected).all()
    assert (model.on_all_cores().run(image_NCYX) == expected).all()
    assert (opened(name, threads=3).run(image_NCYX) == expected).all()
    with ThreadPoolExecutor(2 * model.workers + 1) as pool:
        order = [i % 3 for i in range(24)]
        found = list(pool.map(lambda i: model.run(image_NCYX[i : i + 1]), order))
    assert all((result == expected[i : i + 1]).all() for i, result in zip(order, found, strict=True))


def test_shapes_may_alternate_between_threads(fp32):
    images = [values(1, 1, 48 + 16 * i, 64, seed=i) for i in range(4)]
    expected = [fp32.run(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fp32.run, images * 3))
    assert all((a == b).all() for a, b in zip(found, expected * 3, strict=True))


def test_one_model_serves_several_callers_and_one_alone_all_cores(fp32):
    alone = fp32.on_all_cores()
    assert alone.workers == 1
    assert alone.on_all_cores() is alone
    assert fp32.on_all_cores() is (alone if fp32.workers > 1 else fp32)


@pytest.mark.parametrize("name", NATIVE)
def test_grey_values_as_stored_are_normalised_in_the_graph(name):
    plain = onnx.load_from_string(content_of(arithmetic(name).file))
    model = OpenVinoModel(with_raw_io(plain).SerializeToString(), ROW, arithmetic(name))
    assert model.inputs == ["image", "mean", "inverse_std"]
    image_NCYX = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 96), np.uint8)
    mean, inverse_std = (np.array(x, np.float32).reshape(2, 1, 1, 1) for x in ([120, 90], [1 / 40, 1 / 64]))
    found = model.run(image_NCYX, mean, inverse_std, out=np.empty_like(image_NCYX))
    assert found.dtype == np.uint8
    expected = np.rint(255 * opened(name).run((image_NCYX.astype(np.float32) - mean) * inverse_std))
    assert np.abs(found - expected).max() <= (1 if name == "fp32" else 8)
    each = [model.run(image_NCYX[i : i + 1], mean[i : i + 1], inverse_std[i : i + 1]) for i in range(2)]
    assert (np.concatenate(each) == found).all()


def test_a_stop_ends_its_own_calls_and_no_others(fp32):
    large_NCYX, small_NCYX, failures = values(8, 1, 512, 512), values(1, 1, 48, 64), []
    expected = fp32.run(small_NCYX)
    fp32.run(large_NCYX[:, :, :64])  # compiled apart from what is stopped
    stop, other = fp32.new_stop(), fp32.new_stop()
    running = threading.Event()

    def run():
        fp32.run(large_NCYX[:1])
        running.set()
        try:
            while True:
                fp32.run(large_NCYX[:1], stop=stop)
        except ModelError as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2 * fp32.workers)]
    for thread in threads:
        thread.start()
    running.wait(60)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert len(failures) == len(threads)
    assert (fp32.run(small_NCYX, stop=other) == expected).all()
    with pytest.raises(ModelError, match="stopped"):
        fp32.run(small_NCYX, stop=stop)


def test_a_batch_that_the_model_cannot_take_is_refused_and_the_next_one_runs(fp32):
    with pytest.raises(ModelError, match=r"batch of shape \(1, 1, 8, 8\)"):
        fp32.run(values(1, 1, 8, 8))
    with pytest.raises(ModelError, match="the model failed on a batch"):
        fp32.run(values(1, 1, 48, 64).astype(np.float64))
    assert fp32.run(values(1, 1, 48, 64)).shape == (1, 1, 48, 64)


def test_a_second_start_uses_the_compiled_model_and_gives_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("ISBI_INFER_CACHE", str(tmp_path))
    image_NCYX = values(1, 1, 96, 112)
    results = {name: opened(name).run(image_NCYX) for name in NATIVE}
    entries = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    assert len(entries) == 2 * len(NATIVE)  # the smallest tile, and this one
    for name in NATIVE:
        model = opened(name)
        assert (model.run(image_NCYX) == results[name]).all()
        assert sum(model.convolutions.values()) >= 19  # proved anew
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == entries


def test_an_entry_that_openvino_refuses_is_written_anew(tmp_path, monkeypatch):
    """Whole by its checksum, and still not what this runtime can read."""
    monkeypatch.setenv("ISBI_INFER_CACHE", str(tmp_path))
    image_NCYX = values(1, 1, 96, 112)
    expected = opened("fp32").run(image_NCYX)
    for path in tmp_path.iterdir():
        first, _, kept = path.read_bytes().split(b"\n", 2)
        key, _, _ = kept.partition(b"\n")
        foreign = key + b"\nanother runtime's idea of a compiled model"
        path.write_bytes(b"\n".join([first, hashlib.sha256(foreign).hexdigest().encode(), foreign]))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert (opened("fp32").run(image_NCYX) == expected).all()
    assert all(path.read_bytes() != content for path, content in before.items())


WATCHED = """
import os, sys
def watch(event, arguments):
    if event in ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system", "subprocess.Popen",
                 "socket.connect", "socket.getaddrinfo", "socket.sendto", "_winapi.CreateProcess"):
        os.write(1, event.encode())
        os._exit(3)  # before anything is sent
sys.addaudithook(watch)
"""
RELEASED = """
import numpy as np
from isbi_infer.model.devices import open_backend
from isbi_models import released_models
backend = open_backend(released_models()["isbi2012-unet-b32"].path.read_bytes(), "openvino")
assert backend.run(np.zeros((1, 1, 32, 32), np.float32)).shape == (1, 1, 32, 32)
"""


@pytest.fixture
def outside_of_ci(tmp_path, monkeypatch):
    """A new user, on a machine that does not look like one that runs tests."""
    for name in ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def test_nothing_is_sent_and_no_process_started(outside_of_ci):
    done = run_python(WATCHED + RELEASED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(outside_of_ci.iterdir()) == []  # where a client's id would be


@pytest.mark.skipif(sys.platform != "linux", reason="it starts its process otherwise elsewhere")
def test_the_watch_sees_what_openvino_does_by_itself(outside_of_ci):
    pytest.importorskip("openvino_telemetry")
    done = run_python(WATCHED + "import openvino")
    assert (done.returncode, done.stdout) == (3, "os.fork")


def test_others_find_the_telemetry_package_as_they_would_without_us(outside_of_ci):
    code = (
        "import sys, types\n"
        "before = types.ModuleType('openvino_telemetry')\n"
        "if sys.argv[1] == 'loaded':\n"
        "    sys.modules['openvino_telemetry'] = before\n"
        + RELEASED
        + "found = sys.modules.get('openvino_telemetry')\n"
        "assert found is (before if sys.argv[1] == 'loaded' else None), found\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "assert telemetry_utils.tm.__name__ == 'openvino.tools.ovc.telemetry_stub'\n"
    )
    for case in ("loaded", "not loaded"):
        done = run_python(WATCHED + code, case)
        assert done.returncode == 0, done.stdout + done.stderr


OPENED = (
    "from isbi_infer.errors import DependencyError\n"
    "from isbi_infer.model.devices import open_backend\n"
    "from isbi_models import default_model\n"
    "try:\n"
    "    open_backend(default_model().path.read_bytes(), 'openvino')\n"
    "except DependencyError as error:\n"
    "    print(error)\n"
)


def refusal(path="", before=""):
    """Return why OpenVINO cannot be used in a process that finds this folder first."""
    done = run_python(f"import sys\nsys.path.insert(0, {str(path)!r})\n{before}\n{OPENED}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout.strip()


def test_a_missing_openvino_says_what_to_install():
    found = refusal(before="sys.modules['openvino'] = None")
    assert found == "openvino is not installed; run: pip install 'isbi-infer[openvino]'"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "def get_version(): return '2023.1.0-1-releases'",
            "openvino 2023.1.0-1-releases is too old; expected 2025.2 or newer; "
            "run: pip install --upgrade 'isbi-infer[openvino]'",
        ),
        (
            "raise ImportError('x.so: wrong ELF class: ELFCLASS32')",
            "does not run here (x.so: wrong ELF class",
        ),
        ("import openvino._pyopenvino", "does not run here (No module named 'openvino._pyopenvino')"),
        ("", "does not run here (module 'openvino' has no attribute 'get_version')"),
        ("import sys\nsys.exit('Error: Please set OPENVINO_LIB_PATHS')", "does not run here (Error: Please"),
    ],
    ids=["old", "another processor", "no binding", "empty", "no libraries"],
)
def test_an_openvino_that_cannot_be_used_says_why_and_what_to_do(tmp_path, source, said):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text(source)
    found = refusal(tmp_path)
    assert said in found
    assert "run: pip install --" in found


@pytest.mark.skipif(sys.platform != "linux", reason="it is linked together from symbolic links")
def test_a_missing_plugin_says_what_to_do(tmp_path):
    """The installed package, without its CPU plugin."""
    (installed,) = importlib.util.find_spec("openvino").submodule_search_locations
    package = tmp_path / "openvino"
    (package / "libs").mkdir(parents=True)
    for path in Path(installed).iterdir():
        if path.name != "libs":
            (package / path.name).symlink_to(path)
    (package / "_pyopenvino.so").unlink(missing_ok=True)
    for path in [*Path(installed).glob("_pyopenvino*.so"), *(Path(installed) / "libs").iterdir()]:
        folder = package / "libs" if path.parent.name == "libs" else package
        if path.name != "libopenvino_intel_cpu_plugin.so":
            (folder / path.name).unlink(missing_ok=True)
            (folder / path.name).hardlink_to(path)
    found = refusal(tmp_path)
    assert "lacks its CPU plugin" in found
    assert "run: pip install --force-reinstall 'isbi-infer[openvino]'" in found


def test_two_distributions_of_the_module_are_named(tmp_path):
    folder = tmp_path / "openvino_nightly-2026.5.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: openvino-nightly\nVersion: 2026.5.0\n")
    assert refusal(tmp_path) == (
        "openvino and openvino-nightly are both installed and overwrite each other; run: "
        "pip uninstall -y openvino openvino-nightly && pip install 'isbi-infer[openvino]'"
    )


def test_an_operator_that_it_lacks_is_named():
    def foreign(proto):
        proto.graph.node[3].domain, proto.graph.node[3].op_type = "com.mine", "Mystery"
        proto.opset_import.append(helper.make_opsetid("com.mine", 1))

    with pytest.raises(ModelError, match=r"lacks the operator com\.mine\.Mystery; use --provider cpu"):
        open_backend(changed(foreign), "openvino")


@pytest.mark.parametrize("content", [b"", b"\x08\x07no model", MODEL[:-1000]], ids=["empty", "other", "cut"])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(ModelError, match="OpenVINO cannot read the model"):
        open_backend(content, "openvino")


def test_a_model_without_a_contract_is_proved_with_its_first_batch():
    model = open_backend(changed(lambda proto: proto.ClearField("metadata_props")), "openvino")
    assert not model.convolutions
    model.run(values(1, 1, 64, 64))
    assert set(model.convolutions) == {"f32"}


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set from /proc")
@pytest.mark.parametrize(
    "name", [name if name == "int8" else pytest.param(name, marks=pytest.mark.more) for name in NATIVE]
)
def test_memory_that_runs_out_while_compiling_is_told_from_other_failures(tmp_path, name):
    """The real thing: a process whose address space is limited."""
    path = tmp_path / "model.onnx"  # no released model has float16
    path.write_bytes(content_of(arithmetic(name).file))
    code = (
        "import resource, sys, numpy as np\n"
        "from isbi_infer.errors import ModelError, ResourceError\n"
        "from isbi_infer.model.devices import open_backend, rows\n"
        "row = next(rows('onnx', 'openvino'))\n"
        "arithmetic = next(a for a in row.arithmetic if a.name == sys.argv[1])\n"
        "model = open_backend(open(sys.argv[2], 'rb').read(), row, arithmetic)\n"
        "large = np.zeros((1, 1, 2048, 2048), np.float32)\n"
        "model.run(large[..., :64, :64])\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "for spare in (20, 150, 200):\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + spare * 2**20, resource.RLIM_INFINITY))\n"
        "    try:\n        model.run(large)\n    except ResourceError as error:\n        print(error)\n"
        "    assert model.run(large[..., :64, :64]).shape == (1, 1, 64, 64)\n"
        "try:\n    model.run(large[..., :63, :63])\nexcept ModelError:\n    print('another failure')\n"
    )
    done = run_python(code, name, path, ISBI_INFER_CACHE="")
    lack = "not enough memory to compile the model for a batch of shape (1, 1, 2048, 2048)"
    assert done.stdout.count(lack) == 3, done.stderr
    assert done.stdout.endswith("another failure\n"), done.stderr
