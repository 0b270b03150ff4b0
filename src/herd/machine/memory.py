"""The memory that this process may still take: the machine's, or less where a container says so. Linux; elsewhere
unknown.

What it is not: memory that is free. Pages of files (mapped weights among them) count as available, since the kernel
gives them up. Sources: proc(5) MemAvailable; the kernel's cgroup-v2 and cgroup-v1 memory documents.
"""

from pathlib import Path


def available_bytes(root: Path = Path("/")) -> int | None:
    """The least of MemAvailable and what each memory cgroup above this process leaves, in bytes; None when nothing is
    known.

    root: of the file system that holds proc and sys (tests give their own).
    """
    limits = [*_machine(root), *_groups(root)]
    return max(0, min(limits)) if limits else None


def total_bytes(root: Path = Path("/")) -> int | None:
    """Memory of the machine, or the tightest limit of a cgroup, in bytes; None when nothing is known."""
    found = _meminfo(root).get("MemTotal")
    limits = [found] if found is not None else []
    limits += [limit for _, limit, _ in _limited(root)]
    return min(limits) if limits else None


def _machine(root: Path) -> list[int]:
    found = _meminfo(root).get("MemAvailable")
    return [] if found is None else [found]


def _meminfo(root: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            sizes[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return sizes


def _groups(root: Path) -> list[int]:
    """The limit of each limited group, less what it holds, plus the file pages in that."""
    left = []
    for folder, limit, used_name in _limited(root):
        used = _number(folder / used_name)
        if used is None:
            continue
        stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines() if len(line.split()) == 2)
        prefix = "total_" if used_name == "memory.usage_in_bytes" else ""
        files = sum(int(stat.get(prefix + name, 0)) for name in ("inactive_file", "active_file"))
        left.append(limit - used + min(files, used))
    return left


def _limited(root: Path) -> list[tuple[Path, int, str]]:
    """(folder, limit in bytes, name of the file with its use) of every group above this process with a limit."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            base, limit_name, used_name = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit_name, used_name = (
                root / "sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        else:
            continue
        folder = base / path.lstrip("/")
        # inside a container the path may be the host's: then only the mounted top is there
        for group in (folder, *folder.parents):
            limit = _number(group / limit_name)
            if limit is not None and limit < 1 << 60:
                found.append((group, limit, used_name))
            if group == base:
                break
    return found


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
