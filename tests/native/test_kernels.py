"""The kernels' C++ test program: for every instruction set here, with sanitizers, and for aarch64 under emulation."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def tool(name):
    """A build tool, of the virtual environment or of the system."""
    found = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def build(kind, *options, source=HERE):
    """Compile into build/KIND, which later runs reuse."""
    folder = ROOT / "build" / kind
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            [tool("cmake"), "-S", source, "-B", folder, *options],
            [tool("cmake"), "--build", folder, "-j", "2"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder


def build_sanitized():
    """Beside the module, as `scripts/test --native` builds it: its kernels are compiled once."""
    options = ("-DHERD_SANITIZE=ON", "-DHERD_CHECK=ON", f"-DPython_EXECUTABLE={sys.executable}")
    return build("sanitize", *options, source=ROOT)


def passes(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.endswith("\nok\n")
    return done.stdout


def instruction_sets(folder):
    return subprocess.run([folder / "check", "list"], capture_output=True, text=True, check=True).stdout.split()


def test_kernels_against_double_precision():
    folder = build("check")
    names = instruction_sets(folder)
    assert names[-1] == "portable"
    for name in names:
        assert passes(folder / "check", name).startswith(name + "\n")


def avxvnni_in_the_avx512_form(folder):
    """The processor at hand need not have AVX-VNNI: its one instruction has a twin in AVX-512 VNNI."""
    program = folder / "check_avxvnni"
    if not program.exists():
        pytest.skip("check_avxvnni needs x86-64")
    if subprocess.run([program, "list"], capture_output=True, text=True, check=True).stdout != "avxvnni\n":
        pytest.skip("check_avxvnni needs AVX-512 VNNI")
    passes(program, "avxvnni")


def test_avxvnni_kernels_in_the_avx512_form():
    avxvnni_in_the_avx512_form(build("check"))


def encoded(output):
    """The line that stands for all bytes that the encoders wrote."""
    (line,) = (line for line in output.splitlines() if line.startswith("encoded bytes "))
    return line


def test_encoders_write_the_same_bytes_with_every_instruction_set():
    folder = build("check")
    assert len({encoded(passes(folder / "check", name, "encoders")) for name in instruction_sets(folder)}) == 1


def test_a_subject_that_is_unknown_is_refused():
    done = subprocess.run([build("check") / "check", "portable", "producs"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "subjects: rows quantising" in done.stdout


def test_an_instruction_set_that_is_not_there_is_refused():
    done = subprocess.run([build("check") / "check", "mmx"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "got mmx" in done.stdout


def test_kernels_share_no_code_with_the_baseline():
    """An inline function compiled for AVX-512 and kept by the linker would be an illegal instruction elsewhere: the
    objects of one instruction set export their table (avx512vbmi: its function) and nothing else."""
    objects = sorted((build("check") / "CMakeFiles/herd_core.dir").rglob("isa_*.o"))
    assert len(objects) == 7
    for path in objects:
        lines = subprocess.run([tool("nm"), path], capture_output=True, text=True, check=True).stdout.splitlines()
        defined = [line.split()[-1] for line in lines if line.split()[-2] in "TWVuBDR"]
        assert len(defined) == 1, (path.name, defined)
        assert defined[0].endswith(("_kernelsEv", "vbmi_fewEv"))


@pytest.mark.slow
def test_kernels_under_sanitizers():
    """Every instruction set here; avxvnni among them where the processor has AVX-VNNI."""
    folder = build_sanitized()
    for name in instruction_sets(folder):
        passes(folder / "check", name)


@pytest.mark.slow
def test_avxvnni_kernels_under_sanitizers():
    avxvnni_in_the_avx512_form(build_sanitized())


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["neon", "portable"])
def test_aarch64_kernels_under_emulation(kernels):
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("needs Debian's g++-aarch64-linux-gnu and qemu-user-static")
    folder = build(
        "check-aarch64",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    )
    output = passes(emulator, folder / "check", kernels)
    here = build("check") / "check"
    assert encoded(output) == encoded(passes(here, "portable", "encoders"))
