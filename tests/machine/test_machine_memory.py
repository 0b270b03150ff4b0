"""Available memory from files laid out as the kernel does."""

from pathlib import Path

import pytest

from herd.machine import resources
from herd.machine.memory import available_bytes, total_bytes

MEMINFO = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    8000 kB\nHugePages_Total:       0\n"
K = 1024


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_bare_machine(tmp_path: Path) -> None:
    root = lay(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/user.slice\n"})
    assert (available_bytes(root), total_bytes(root)) == (8000 * K, 16000 * K)


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/memory.current": "100\n",
            "sys/fs/cgroup/a/memory.max": f"{3000 * K}\n",
            "sys/fs/cgroup/a/memory.current": f"{2500 * K}\n",
            "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {300 * K}\nactive_file {200 * K}\n",
        },
    )
    assert available_bytes(root) == 1000 * K, "500 kB unused, and 500 kB of file pages that can go"
    assert total_bytes(root) == 3000 * K


def test_a_container_whose_path_is_the_hosts(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/docker/0123abcd\n",
            "sys/fs/cgroup/memory.max": f"{2000 * K}\n",
            "sys/fs/cgroup/memory.current": f"{500 * K}\n",
            "sys/fs/cgroup/memory.stat": "",
        },
    )
    assert available_bytes(root) == 1500 * K


def test_version_one_groups(tmp_path: Path) -> None:
    v1 = "sys/fs/cgroup/memory/job/memory"
    root = lay(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n",
            f"{v1}.limit_in_bytes": f"{4000 * K}\n",
            f"{v1}.usage_in_bytes": f"{3000 * K}\n",
            f"{v1}.stat": f"inactive_file 7\ntotal_inactive_file {1000 * K}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
        },
    )
    assert available_bytes(root) == 2000 * K


def test_use_over_the_limit_leaves_nothing(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "1000\n",
            "sys/fs/cgroup/memory.current": "2000\n",
        },
    )
    assert available_bytes(root) == 0


@pytest.mark.parametrize("files", [{}, {"proc/meminfo": "garbage\nMemAvailable: x kB\n", "proc/self/cgroup": "\x00:x"}])
def test_unknown_is_none(tmp_path: Path, files: dict[str, str]) -> None:
    root = lay(tmp_path, files)
    assert available_bytes(root) is None
    assert total_bytes(root) is None


def test_this_machine() -> None:
    here = resources()
    assert here.processors >= 1
    if here.memory_bytes is not None and here.available_bytes is not None:
        assert 0 < here.available_bytes <= here.memory_bytes
