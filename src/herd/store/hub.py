"""Models from a Hugging Face hub, through huggingface_hub (an extra): its addresses, tokens, retries and redirects.

Files are kept under partial/ until all are there and checked, so a download goes on where it stopped, even after
kill -9 (the library's own resume lives only as long as its process). HF_ENDPOINT and HF_TOKEN are the library's.
"""

import contextlib
import fnmatch
import hashlib
import io
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herd.checkpoint.gguf.vision_parts import is_vision_part, parts_for
from herd.disk.atomic import check_disk, explain_full_disk, make_folders, new_folder
from herd.disk.hashing import BLOCK
from herd.errors import BadFile, MissingExtra, NetworkError, NotFound, UsageError, fail
from herd.progress import Progress, part_of, silent
from herd.store import registry
from herd.store.fetch import clear, present, watch
from herd.store.files import digest_of
from herd.store.registry import FileRecord, Version

WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "added_tokens.json",
    "config.json",
    "generation_config.json",
    "herd.manifest.json",
    "hf_quant_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "quantize_config.json",
    "special_tokens_map.json",
    "chat_template*",
    "tokenizer*",
    "*.txt",
    "README.md",
    "LICENSE*",
    "USE_POLICY*",
)
"""Files of a safetensors model that are fetched; code, pickles and everything unknown is not."""
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}")
MAX_FILES = 1000


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its name, size, and what its content must hash to."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None
    """SHA-1 of git's blob: small files have only this."""


def pull_hub(
    repo: str, *, revision: str | None = None, file: str | None = None, progress: Progress = silent
) -> Version:
    """Fetch ORG/NAME and make it current. file: a pattern for GGUF repositories, which hold one model many times.

    Raises MissingExtra, NotFound, NetworkError, UsageError (which of several GGUF files?), BadFile, DoesNotFit.
    """
    hub = _library()
    with registry.lock(repo), _network_errors(repo):
        info = hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
        chosen = choose(repo, [_remote(s) for s in info.siblings or ()], file)
        commit = str(info.sha)
        if not re.fullmatch(r"[0-9a-f]{7,64}", commit):
            fail(BadFile, f"{repo}: revision", got=commit, expected="a git commit")
        source = f"hub {repo}@{commit[:12]}"
        if (there := _same_source(repo, source, chosen)) is not None:
            registry.add(repo, there)
            return there
        partial = registry.home() / "partial" / f"{repo.replace('/', '--')}-{commit[:12]}"
        _forget_others(partial)
        make_folders(partial)
        total = sum(f.size for f in chosen)
        check_disk(partial, total - sum(p.stat().st_size for p in partial.iterdir()))
        with watch(partial, f"downloading {repo}", total, progress):
            for f in chosen:
                _fetch(hub, repo, commit, f, partial)
        records, done = {}, 0
        for f in chosen:
            records[f.name] = _checked(partial / f.name, f, part_of(progress, f"checking {repo}", done, total))
            done += f.size
        digest = digest_of(records)
        assert digest is not None, "every file was hashed above"
        target = registry.folder(repo) / digest[:12]
        clear(target.parent)
        with new_folder(target, overwrite=True) as folder:
            for f in chosen:
                os.replace(partial / f.name, folder / f.name)
        shutil.rmtree(partial, ignore_errors=True)
        only = chosen[0].name if len(chosen) == 1 else ""
        version = Version(
            id=digest[:12],
            path=str((target / only).relative_to(registry.home())),
            files=records,
            source=source,
            digest=digest,
            licence=_licence(info),
            added_s=time.time(),
        )
        registry.add(repo, version)
        return version


def _forget_others(partial: Path) -> None:
    """Remove unfinished downloads of other commits of the same repository: nobody would go on with them. Call it only
    with the model's lock held."""
    stem = re.escape(partial.name[:-12])
    for path in partial.parent.glob("*"):
        if path != partial and re.fullmatch(stem + "[0-9a-f]{12}", path.name):
            shutil.rmtree(path, ignore_errors=True)


def choose(repo: str, files: list[RemoteFile], pattern: str | None) -> list[RemoteFile]:
    """The files to fetch: those of a safetensors model, or one GGUF with the vision part that belongs to it."""
    if len(files) > MAX_FILES:
        fail(BadFile, f"{repo}: files", got=len(files), expected=f"at most {MAX_FILES}")
    ggufs = [f for f in files if f.name.endswith(".gguf")]
    if pattern is not None:
        chosen = [f for f in ggufs if fnmatch.fnmatch(f.name, pattern)]
        if len(chosen) != 1:
            names = ", ".join(f.name for f in (chosen or ggufs)) or "no GGUF"
            fail(UsageError, f"{repo}: --file {pattern} matches {len(chosen)} files", got=names, expected="one")
        return _with_vision_part(chosen[0], ggufs)
    if any(f.name.endswith(".safetensors") for f in files):
        return [f for f in files if any(fnmatch.fnmatch(f.name, p) for p in WANTED)]
    models = [f for f in ggufs if not is_vision_part(f.name)] or ggufs
    if len(models) == 1:
        return _with_vision_part(models[0], ggufs)
    if models:
        fail(UsageError, f"{repo} holds {len(models)} GGUF models", do=f"choose: --file {models[0].name}, or another")
    return fail(NotFound, f"{repo} holds neither safetensors nor GGUF", do="choose a repository with weights")


def _with_vision_part(model: RemoteFile, ggufs: list[RemoteFile]) -> list[RemoteFile]:
    beside = {f.name: f for f in ggufs if "/" not in f.name}
    parts = [] if is_vision_part(model.name) else parts_for(model.name, sorted(beside))
    return [model, *(beside[name] for name in parts[:1])]


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        fail(
            MissingExtra,
            "pulling ORG/NAME needs huggingface_hub",
            do="scripts/setup --hub, or fetch the files yourself and use: herd import PATH",
        )
    return huggingface_hub


def _remote(sibling: Any) -> RemoteFile:
    name, size = sibling.rfilename, sibling.size
    if "/" in name:
        return RemoteFile(name, 0, None, None)  # never chosen: subfolders are not entered
    if not SAFE.fullmatch(name) and not name.startswith("."):
        fail(BadFile, "hub: a file's name", got=name, expected="letters, digits, '.', '_', '+' and '-'")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        fail(BadFile, f"hub: size of {name}", got=size, expected="a number of bytes")
    return RemoteFile(name, size, sibling.lfs.sha256 if sibling.lfs else None, sibling.blob_id)


def _same_source(repo: str, source: str, chosen: list[RemoteFile]) -> Version | None:
    entry = registry.read().models.get(repo)
    for version in entry.versions if entry else ():
        if version.source == source and set(version.files) == {f.name for f in chosen} and present(version):
            return version
    return None


def _fetch(hub: Any, repo: str, commit: str, file: RemoteFile, folder: Path) -> None:
    """Download what is missing of one file. A whole one is left alone; its content is checked later."""
    from huggingface_hub.file_download import http_get

    part = folder / file.name
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
        fail(
            NetworkError, f"pull {repo}: its owner wants the licence accepted first", do="accept it there, set HF_TOKEN"
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as e:
        fail(
            NotFound,
            f"pull {repo}: the hub has no such repository or revision",
            got=_first_line(e),
            do="check its name",
        )
    except errors.HFValidationError as e:
        fail(UsageError, f"pull {repo}", got=_first_line(e))
    except Exception as e:
        # httpx's errors (of whichever name the library ships it under) and the library's share no other base.
        known = isinstance(e, errors.HfHubHTTPError | ConnectionError | TimeoutError) or "httpx" in _families(e)
        if not known and not (isinstance(e, OSError) and "Consistency check failed" in str(e)):
            raise
        fail(NetworkError, f"pull {repo}", got=_first_line(e), do="the same command goes on where this one stopped")


def _families(error: BaseException) -> set[str]:
    return {base.__module__.split(".")[0].rstrip("0123456789") for base in type(error).__mro__}


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
