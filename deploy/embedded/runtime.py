"""Finds the tritonserver that the `nvidia-pytriton` wheel carries and lays out its backends."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from embedded.errors import UnsupportedMachineError

__all__ = ["TritonRuntime", "find_runtime"]

STUB = "triton_python_backend_stub"
MISSING_LIBRARY_STATUS = 127
_OTHER_WAYS = "or serve the repository with Triton's container"
_INSTALL = f"{Path(sys.executable)} -m pip install nvidia-pytriton==0.7.0"

# The memory of large batches, which the allocator would otherwise give back to the kernel after
# each pass and take anew: 0.8 to 1.5 ms per image in the scorer at batch 32 with the demo model.
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # the most that every glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}


@dataclass(frozen=True)
class TritonRuntime:
    """The files of the wheel that the embedded server needs.

    Attributes:
        tritonserver: the server's binary.
        python_backend: folder of the python backend's library.
        stub: executable that runs a model in the running version of Python.
        libraries: folders for LD_LIBRARY_PATH.
    """

    tritonserver: Path
    python_backend: Path
    stub: Path
    libraries: tuple[Path, ...]

    def environment(self) -> dict[str, str]:
        """Environment for tritonserver; its stubs find packages by the first `python3` on PATH."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
        inherited = environment.get("LD_LIBRARY_PATH")
        libraries = [str(folder) for folder in self.libraries] + ([inherited] if inherited else [])
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
        # Two networks compute at the same time, each in a process of its own. Given all cores each,
        # they spin against one another: 24 images/s instead of 82 with the demo model on two cores.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // 2)))
        environment = _KEEP_MEMORY | environment
        executables = str(Path(sys.executable).parent)
        environment["PATH"] = os.pathsep.join([executables, environment.get("PATH", os.defpath)])
        return environment

    def lay_out_backends(self, folder: Path) -> None:
        """Fill `folder` with the wheel's python backend and our pytorch backend.

        Copies, 3 MB: Triton refuses links that lead out of the backend directory.
        """
        ours = Path(__file__).resolve().parent / "pytorch_backend"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(self.python_backend, folder / "python", ignore=ignored)
        shutil.copytree(ours, folder / "pytorch", ignore=ignored)
        stub = folder / "python" / STUB
        shutil.copyfile(self.stub, stub)
        stub.chmod(0o755)


def find_runtime() -> TritonRuntime:
    """Find the wheel's files and check that they run here.

    Raises:
        UnsupportedMachineError: no wheel, a platform or Python it has no files for, numpy 2 or
            newer beside it, or a shared library missing.
    """
    _check_platform()
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
    runtime = TritonRuntime(
        tritonserver=package / "tritonserver" / "bin" / "tritonserver",
        python_backend=package / "tritonserver" / "backends" / "python",
        stub=stub,
        libraries=(package.parent / "nvidia_pytriton.libs", *_python_library()),
    )
    _check_stub(runtime)
    return runtime


def _check_platform() -> None:
    machine, libc = platform.machine(), platform.libc_ver()[0]
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64") or libc != "glibc":
        found = " ".join(filter(None, (platform.system(), machine, libc)))
        raise UnsupportedMachineError(
            "The embedded server runs on Linux with glibc on x86-64 or aarch64, "
            f"this is {found}: use such a machine, {_OTHER_WAYS}."
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


def _check_stub(runtime: TritonRuntime) -> None:
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
