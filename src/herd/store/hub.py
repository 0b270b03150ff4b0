"""Models from a Hugging Face hub, through huggingface_hub (an extra): its addresses, tokens, retries and redirects.

Files are kept under partial/ until all are there and checked, so a download goes on where it stopped, even after
kill -9 (the library's own resume lives only as long as its process). HF_ENDPOINT and HF_TOKEN are the library's.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from herd.disk.atomic import check_disk, explain_full_disk, make_folders, new_folder
from herd.disk.hashing import BLOCK
from herd.errors import BadFile, MissingExtra, NetworkError, NotFound, UsageError, fail
from herd.progress import Progress, part_of, silent
from herd.store import registry
from herd.store.fetch import clear, present, watch
from herd.store.files import digest_of
from herd.store.hub_files import RemoteFile
from herd.store.registry import FileRecord, Version

REFUSED = (401, 403)
"""Statuses of a hub that wants a token, or another one."""
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}")
Select: TypeAlias = Callable[[list[RemoteFile]], list[RemoteFile]]
"""Chooses the files to fetch among those of a repository. What it raises ends the pull before a byte is fetched."""


def pull_hub(
    repo: str,
    select: Select,
    *,
    name: str | None = None,
    revision: str | None = None,
    progress: Progress = silent,
    switch: bool = True,
) -> Version:
    """Fetch what `select` takes of ORG/NAME and make it current. name: what it is called in the store; None: as there.
    switch: False leaves a name that is there with the version that it means.

    Raises MissingExtra, NotFound, NetworkError, BadFile, DoesNotFit, and what `select` raises.
    """
    hub, name, _ = library(), name or repo, token()  # a token that cannot be sent is told first
    with registry.lock(name), _network_errors(repo):
        info = hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
        chosen = select([f for s in info.siblings or () if (f := _remote(s)) is not None])
        commit = str(info.sha)
        if not re.fullmatch(r"[0-9a-f]{7,64}", commit):
            fail(BadFile, f"{repo}: revision", got=commit, expected="a git commit")
        source = f"hub {repo}@{commit[:12]}"
        if (there := _same_source(name, source, chosen)) is not None:
            registry.add(name, there, "pull", switch=switch)
            return there
        partial = partial_folder(name, commit)
        _forget_others(partial)
        make_folders(partial)
        total = sum(f.size for f in chosen)
        have = sum(p.stat().st_size for f in chosen if (p := partial / f.base).exists())
        check_disk(partial, total - have)
        with watch(partial, f"downloading {name}", total, progress):
            for f in chosen:
                _fetch(hub, repo, commit, f, partial)
        records, done = {}, 0
        for f in chosen:
            records[f.base] = _checked(partial / f.base, f, part_of(progress, f"checking {name}", done, total))
            done += f.size
        digest = digest_of(records)
        assert digest is not None, "every file was hashed above"
        target = registry.folder(name) / digest[:12]
        clear(target.parent)
        with new_folder(target, overwrite=True) as folder:
            for f in chosen:
                os.replace(partial / f.base, folder / f.base)
        shutil.rmtree(partial, ignore_errors=True)
        only = chosen[0].base if len(chosen) == 1 else ""
        version = Version(
            id=digest[:12],
            path=str((target / only).relative_to(registry.home())),
            files=records,
            source=source,
            digest=digest,
            licence=_licence(info),
            added_s=time.time(),
        )
        registry.add(name, version, "pull", switch=switch)
        return version


def token() -> str | None:
    """The token of the hub that is set: HF_TOKEN, or what the hub's own tool keeps; None: there is none. Raises
    UsageError for one that could not be sent."""
    try:
        found = library().get_token()
    except MissingExtra:
        found = os.environ.get("HF_TOKEN")
    if found and not (found.isascii() and found.isprintable()):
        fail(UsageError, "HF_TOKEN holds characters that no token has", do="copy it anew")
    return str(found) if found else None


def refuse_gate(repo: str) -> NoReturn:
    """Raise NetworkError: a licence has to be accepted first, with what to do."""
    fail(NetworkError, f"pull {repo}: its owner wants the licence accepted first", do=_gate_do(repo))


def _gate_do(repo: str) -> str:
    from huggingface_hub import constants

    return (
        f"sign in at {constants.ENDPOINT}/{repo}, fill in the form there, "
        "and set HF_TOKEN to a token of that account that may read"
    )


def partial_folder(name: str, commit: str) -> Path:
    """The place of what is being fetched of a commit for a name, whose lock guards it."""
    return registry.home() / "partial" / f"{name.replace('/', '--')}-{commit[:12]}"


def _forget_others(partial: Path) -> None:
    """Remove unfinished downloads of other commits for the same name: nobody would go on with them. Call it only
    with the model's lock held."""
    stem = re.escape(partial.name[:-12])
    for path in partial.parent.glob("*"):
        if path != partial and re.fullmatch(stem + "[0-9a-f]{12}", path.name):
            shutil.rmtree(path, ignore_errors=True)


def library() -> Any:
    """The module huggingface_hub. Raises MissingExtra."""
    try:
        import huggingface_hub
    except ImportError:
        fail(
            MissingExtra,
            "pulling from a hub needs huggingface_hub",
            do="scripts/setup --hub, or fetch the files yourself and use: herd import PATH",
        )
    return huggingface_hub


def _remote(sibling: Any) -> RemoteFile | None:
    """A file of a listing; None: one that is never fetched. Of subfolders only those of GGUF files are entered."""
    name, size = sibling.rfilename, sibling.size
    folder, slash, base = name.rpartition("/")
    if name.startswith("."):
        return None
    if slash and not (SAFE.fullmatch(folder) and SAFE.fullmatch(base) and base.endswith(".gguf")):
        return None
    if not SAFE.fullmatch(base):
        fail(BadFile, "hub: a file's name", got=name, expected="letters, digits, '.', '_', '+' and '-'")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        fail(BadFile, f"hub: size of {name}", got=size, expected="a number of bytes")
    return RemoteFile(name, size, sibling.lfs.sha256 if sibling.lfs else None, sibling.blob_id)


def _same_source(name: str, source: str, chosen: list[RemoteFile]) -> Version | None:
    entry = registry.read().models.get(name)
    for version in entry.versions if entry else ():
        if version.source == source and set(version.files) == {f.base for f in chosen} and present(version):
            return version
    return None


def _fetch(hub: Any, repo: str, commit: str, file: RemoteFile, folder: Path) -> None:
    """Download what is missing of one file. A whole one is left alone; its content is checked later."""
    from huggingface_hub.file_download import http_get

    part = folder / file.base
    have = part.stat().st_size if part.exists() else 0
    if have > file.size:
        part.unlink()
        have = 0
    url = hub.hf_hub_url(repo, file.name, revision=commit)
    try:
        with _Capped(part, file.size) as out:
            out.seek(0, os.SEEK_END)
            if have < file.size:
                http_get(url, out, resume_size=have, headers=hub.utils.build_hf_headers(), expected_size=file.size)
            os.fsync(out.fileno())
    except OSError as problem:
        explain_full_disk(part, problem, "make room: the same command goes on where this one stopped")
        raise


class _Capped(io.FileIO):
    """A file that refuses to grow beyond its declared size, whatever the server sends."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(path, "r+" if path.exists() else "w+")
        self.limit = limit

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > self.limit:
            fail(BadFile, f"{self.name}: the server sends more than the {self.limit} bytes it declared")
        done, view = 0, memoryview(data).cast("B")
        while done < len(view):  # a disk that is nearly full takes a part: the rest of it must not be skipped
            done += super().write(view[done:])
        return done


def _checked(path: Path, file: RemoteFile, progress: Progress) -> FileRecord:
    """Hash a file and compare it with what the hub says. A wrong one is removed, so that the next pull starts it
    anew."""
    sha256, sha1, done = hashlib.sha256(), hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False), 0
    with open(path, "rb") as f:
        while block := f.read(BLOCK):
            sha256.update(block)
            sha1.update(block)
            done += len(block)
            progress(f"checking {file.name}", done, file.size)
    got, want = (sha256, file.sha256) if file.sha256 else (sha1, file.git_sha1)
    if want is not None and got.hexdigest() != want:
        path.unlink()
        fail(BadFile, f"{file.name}: digest", got=got.hexdigest(), expected=want, do="pull again")
    status = path.stat()
    return FileRecord(status.st_size, status.st_mtime_ns, sha256.hexdigest())


def _licence(info: Any) -> str | None:
    card = info.card_data
    if card is None:
        return None
    name = card.get("license_name") if card.get("license") == "other" else card.get("license")
    return str(name) if name else None


@contextlib.contextmanager
def _network_errors(repo: str) -> Any:
    """A context that turns the library's many errors into ours, in one line each."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        refuse_gate(repo)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as e:
        fail(
            NotFound,
            f"pull {repo}: the hub has no such repository or revision",
            got=_first_line(e),
            do="check its name; a private one wants HF_TOKEN" if _status(e) in REFUSED else "check its name",
        )
    except errors.HFValidationError as e:
        fail(UsageError, f"pull {repo}", got=_first_line(e))
    except Exception as e:
        if _status(e) in REFUSED:
            fail(NetworkError, f"pull {repo}: the hub refuses ({_first_line(e)})", do=_gate_do(repo))
        # httpx's errors (of whichever name the library ships it under) and the library's share no other base.
        known = isinstance(e, errors.HfHubHTTPError | ConnectionError | TimeoutError) or "httpx" in _families(e)
        if not known and not (isinstance(e, OSError) and "Consistency check failed" in str(e)):
            raise
        fail(NetworkError, f"pull {repo}", got=_first_line(e), do="the same command goes on where this one stopped")


def _families(error: BaseException) -> set[str]:
    return {base.__module__.split(".")[0].rstrip("0123456789") for base in type(error).__mro__}


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _first_line(error: BaseException) -> str:
    """The first line of an error; the token never: what refuses a header may repeat it."""
    line = str(error).strip().split("\n")[0] or type(error).__name__
    secret = token()
    return line.replace(secret, "(token)") if secret else line
