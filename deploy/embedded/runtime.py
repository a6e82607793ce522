"""Finds the tritonserver to run: an installed one, or the one in the `nvidia-pytriton` wheel."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embedded.errors import UnsupportedMachineError

STUB = "triton_python_backend_stub"
MISSING_LIBRARY_STATUS = 127
_OTHER_WAYS = "or serve the repository with Triton's container"
_INSTALL = f"{Path(sys.executable)} -m pip install nvidia-pytriton==0.7.0"

# The memory of large batches, which the allocator would otherwise give back to the kernel after
# each pass and request again: 0.8 to 1.5 ms per image in the scorer at batch 32, demo model.
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # the most that every glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}


@dataclass(frozen=True)
class TritonRuntime:
    """A tritonserver with backends of its own, such as that of Triton's container.

    Attributes:
        tritonserver: the program.
        libraries: folders for LD_LIBRARY_PATH.
    """

    tritonserver: Path
    libraries: tuple[Path, ...] = ()

    def environment(self, cores: int | None = None) -> dict[str, str]:
        """Environment for tritonserver; its stubs find packages by the first `python3` on PATH.

        Args:
            cores: number of CPU cores to use; None: those that this process may use.
        """
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
        _put_first(environment, "LD_LIBRARY_PATH", map(str, self.libraries))
        _put_first(environment, "PATH", [str(Path(sys.executable).parent)])
        cores = cores or len(os.sched_getaffinity(0))
        environment["MA_AGIQA_CORES"] = str(cores)
        # Two networks compute at the same time, each in a process of its own. Given all cores each,
        # they slow each other down: 24 images/s instead of 82 with the demo model on two cores.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // 2)))
        # On a GPU cuDNN would otherwise compute float32 convolutions in TF32, with float16's
        # precision, and a scorer that was exported as exact would not be.
        environment.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        return _KEEP_MEMORY | environment

    def lay_out_backends(self, folder: Path) -> list[str]:
        """Put the backends that the program lacks into `folder`; return its options to use them."""
        return []


@dataclass(frozen=True)
class WheelRuntime(TritonRuntime):
    """The tritonserver in the wheel, which comes without a backend directory.

    Attributes:
        python_backend: folder of the python backend's library.
        stub: executable that runs a model in the running version of Python.
    """

    python_backend: Path = Path()
    stub: Path = Path()

    def lay_out_backends(self, folder: Path) -> list[str]:
        """Copy the wheel's python backend and our pytorch backend, 3 MB.

        Triton refuses links that lead out of the backend directory.
        """
        ours = Path(__file__).resolve().parent / "pytorch_backend"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(self.python_backend, folder / "python", ignore=ignored)
        shutil.copytree(ours, folder / "pytorch", ignore=ignored)
        stub = folder / "python" / STUB
        shutil.copyfile(self.stub, stub)
        stub.chmod(0o755)
        return [f"--backend-directory={folder}"]


def find_runtime(program: Path | None = None) -> TritonRuntime:
    """Find tritonserver and check that it runs here.

    Args:
        program: an installed tritonserver; None: the one in the wheel.

    Raises:
        UnsupportedMachineError: there is no such program; or no wheel, a platform or Python that it
            has no files for, numpy 2 or newer next to it, or a shared library missing.
    """
    if program is None:
        return _wheel_runtime()
    found = shutil.which(program)
    if found is None:
        raise UnsupportedMachineError(
            f"There is no program {program} to run: give --tritonserver the path of tritonserver, "
            "which is /opt/tritonserver/bin/tritonserver in Triton's container."
        )
    return TritonRuntime(Path(found))


def _wheel_runtime() -> WheelRuntime:
    _check_platform()
    _check_paths()
    package = _find_wheel()
    _check_numpy()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stubs = package / "tritonserver" / "python_backend_stubs"
    stub = stubs / version / STUB
    if not stub.is_file():
        known = ", ".join(sorted((f.name for f in stubs.iterdir()), key=lambda v: int(v[2:])))
        raise UnsupportedMachineError(
            f"The embedded server has no stub for Python {version}, only for {known}: "
            f"make the virtual environment with one of these, {_OTHER_WAYS}."
        )
    runtime = WheelRuntime(
        tritonserver=package / "tritonserver" / "bin" / "tritonserver",
        libraries=(package.parent / "nvidia_pytriton.libs", *_python_library()),
        python_backend=package / "tritonserver" / "backends" / "python",
        stub=stub,
    )
    _check_stub(runtime)
    return runtime


def _put_first(environment: dict[str, str], name: str, folders: Iterable[str]) -> None:
    inherited = environment.get(name) or (os.defpath if name == "PATH" else "")
    if value := os.pathsep.join(filter(None, (*folders, inherited))):
        environment[name] = value


def _check_platform() -> None:
    machine, libc = platform.machine(), platform.libc_ver()[0]
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64") or libc != "glibc":
        found = " ".join(filter(None, (platform.system(), machine, libc)))
        raise UnsupportedMachineError(
            "The embedded server runs on Linux with glibc on x86-64 or aarch64, "
            f"this is {found}: use such a machine, {_OTHER_WAYS}."
        )


def _check_paths() -> None:
    """Python in the stub knows no letters but ASCII, whatever the locale is."""
    spec = importlib.util.find_spec("ma_agiqa")
    for folder in (sys.prefix, *((spec and spec.submodule_search_locations) or ())):
        if not folder.isascii():
            raise UnsupportedMachineError(
                f"The embedded server cannot import Python packages from {folder}, whose path has "
                "letters that are not ASCII: move them to a path without, and install them there "
                f"again (`make install`), {_OTHER_WAYS}."
            )


def _find_wheel() -> Path:
    spec = importlib.util.find_spec("pytriton")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in map(Path, folders):
        if (folder / "tritonserver" / "bin" / "tritonserver").is_file():
            return folder
    raise UnsupportedMachineError(
        f"nvidia-pytriton, which carries tritonserver, is not installed: run `{_INSTALL}`."
    )


def _check_numpy() -> None:
    version = importlib.metadata.version("numpy")
    if int(version.split(".")[0]) >= 2:
        raise UnsupportedMachineError(
            f"numpy {version} is installed, but the embedded server returns empty tensors with "
            f"numpy 2 or newer: run `{Path(sys.executable)} -m pip install 'numpy<2'`."
        )


def _python_library() -> tuple[Path, ...]:
    """Folder of the running Python's shared library, where it is not one of the system's."""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "")
    name = sysconfig.get_config_var("INSTSONAME") or ""
    return (folder,) if name and (folder / name).is_file() else ()


def _check_stub(runtime: WheelRuntime) -> None:
    """Start the stub without arguments: it complains about them, unless a library is missing."""
    result = subprocess.run(
        [runtime.stub], env=runtime.environment(), capture_output=True, text=True, check=False
    )
    if result.returncode == MISSING_LIBRARY_STATUS:
        reason = result.stderr.strip().splitlines()[-1].removeprefix(f"{runtime.stub}: ")
        raise UnsupportedMachineError(
            f"The embedded server cannot start Python here ({reason}): install that library "
            "(libpython comes with the Python of the distribution, uv or conda, "
            f"not with a static build), {_OTHER_WAYS}."
        )
