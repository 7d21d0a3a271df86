"""A folder that is either the old one or the complete new one, never half of either."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def require_place(out: Path, marker: str) -> Path:
    """Check, before any work is done, that a report can be written to `out`; its absolute path.

    Raises FileExistsError for a folder that is something else than an earlier report with a file
    named `marker`, OSError for a place that cannot be written.
    """
    out = Path(os.path.abspath(out))
    if out.is_dir() and any(out.iterdir()) and not (out / marker).is_file():
        raise FileExistsError(
            f"{out.name!r} must be new, empty or an earlier report (with {marker}), "
            "not a folder of other files; choose another name"
        )
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out.name!r} must be a folder, not a file; choose another name")
    for above in out.parents:
        if above.exists() and not above.is_dir():
            raise FileExistsError(f"{out.name!r} must lie in a folder, not in file {above.name!r}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent):
        return out


@contextmanager
def replaced_folder(out: Path, marker: str) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends well it becomes `out`.

    The folder is built beside `out`, on the same disk, and takes its name in one rename. When
    the block raises, `out` is as it was. A folder that is already there is replaced only if it is
    empty or holds a file named `marker`, so that a mistyped name never deletes other work.

    Raises FileExistsError for a folder that is something else, OSError for a place that cannot
    be written.
    """
    out = require_place(out, marker)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        yield new
        if not out.exists():
            new.rename(out)
            return
        out.rename(old)
        try:
            new.rename(out)
        except BaseException:
            old.rename(out)
            raise
