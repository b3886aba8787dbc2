"""Decide what to load of each file: whether it is new, grown, renamed, or a copy of another."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from warehouse.files.lake import (
    FINGERPRINT_BYTES,
    NOT_READ,
    Checkpoint,
    FileTask,
    LakeError,
    LakeFile,
    State,
    edges,
    fingerprint,
    line_end,
    reading,
)
from warehouse.files.locations import Location
from warehouse.files.rotation import may_be_copy, may_become
from warehouse.files.same_content import ContentPart, begins_with, is_one_of_a_kind

_READ = 1 << 20


class Catalog:
    """Decides what to load of each file.

    A file at a known path is loaded from its checkpoint on if its content still begins the same; otherwise it is new.
    At another path a file counts as renamed or as a copy only if the content is the same and one of these is true:
    rotation gives such names, the inode or the time is the same, or the content is so long and varied that no two
    servers could have written it. In doubt both files are loaded: two servers may write the same lines.
    """

    def __init__(
        self,
        files: Sequence[LakeFile],
        known: Sequence[Checkpoint],
        parts_of: Callable[[int], Sequence[ContentPart]] = lambda _: (),
    ) -> None:
        """`parts_of` returns the loaded parts of a file by its id."""
        self._parts_of = parts_of
        self._known = list(known)
        self._present: dict[int, LakeFile] = {}
        self._by_own_path: dict[str, FileTask] = {}
        self._by_path = {
            checkpoint.path: checkpoint for checkpoint in known if checkpoint.status != "replaced"
        }
        self.add(files)

    def add(self, files: Sequence[LakeFile]) -> None:
        """Add files that were found in the landing folder."""
        for file in files:
            checkpoint = self._by_path.get(file.path)
            if checkpoint is None:
                continue
            state: State
            if checkpoint.status in NOT_READ:
                # Try again, since permissions or declarations may have changed; but not an unchanged archive beyond the
                # limits, which would take long to unpack.
                is_settled = checkpoint.status == "unread" and checkpoint.is_stamped_as(file)
                state = "unchanged" if is_settled else "grown"
            elif checkpoint.is_stamped_as(file):
                if checkpoint.has_only_rejected_lines:
                    state = "reread"
                else:
                    # A file is partial if a batch ended inside it.
                    state = "grown" if checkpoint.status == "partial" else "unchanged"
            elif _continues_if_readable(file, checkpoint):
                state = "grown"
            else:
                continue
            self._by_own_path[file.path] = FileTask(file, state, checkpoint)
            self._present[checkpoint.file_id] = file

    def is_unchanged(self, file: LakeFile) -> bool:
        """Whether the file has not changed since it was loaded."""
        task = self._by_own_path.get(file.path)
        return task is not None and task.state == "unchanged"

    def is_copy_or_new(self, file: LakeFile) -> bool:
        """Whether the file is new or a copy."""
        task = self._by_own_path.get(file.path)
        return task is None or task.checkpoint is None or task.checkpoint.lines_duplicated > 0

    def task(self, file: LakeFile) -> FileTask:
        """Return what to do with a file, considering the files for which `loaded` was called."""
        under_own_path = self._by_own_path.get(file.path)
        if under_own_path is None:
            return self._find_original(file)
        own = under_own_path.checkpoint
        if under_own_path.state == "unchanged" or own is None:
            return under_own_path
        elsewhere = self._find_original(file, own)
        if elsewhere.state != "new":
            return replace(elsewhere, former=own)
        # A load that was killed before its first line has not recorded the message yet: repeat it.
        return under_own_path if own.has_lines else replace(under_own_path, message=elsewhere.message)

    def loaded(self, file: LakeFile, checkpoint: Checkpoint) -> None:
        """Record that a file is loaded up to `checkpoint`."""
        self._known = [one for one in self._known if one.file_id != checkpoint.file_id] + [checkpoint]
        self._present[checkpoint.file_id] = file

    def _find_original(self, file: LakeFile, own: Checkpoint | None = None) -> FileTask:
        """Find a loaded file with the same content that reaches further than the file's `own` checkpoint."""
        beyond = own.byte_offset if own and own.has_lines else 0
        another: Checkpoint | None = None
        for known in self._alike(file, own, beyond):
            original = self._present.get(known.file_id)
            goes_on = _continues(file, known)
            task = None
            if original is not None:
                task = _copy(file, known, original, beyond, goes_on=goes_on)
            elif goes_on:
                task = self._renamed(file, known)
            if task is not None:
                return task
            if another is None and goes_on and known.byte_offset:
                another = known
        return FileTask(file, "new", message=None if another is None else _as_another(another))

    def _alike(self, file: LakeFile, own: Checkpoint | None, beyond: int) -> list[Checkpoint]:
        """Return the loaded files that reach `beyond` and may have the same content, the longest first."""
        with reading(file.location) as content:
            head = content.read(FINGERPRINT_BYTES)
        # Hash each length once: nearly all files are longer than the fingerprint, so there are few lengths.
        hashes: dict[int, str] = {}
        alike = []
        for known in self._known:
            if known.byte_offset <= beyond or (own and known.file_id == own.file_id):
                continue
            length = known.head_bytes
            if len(head) >= length:
                if length not in hashes:
                    hashes[length] = fingerprint(head[:length])
                if hashes[length] != known.head_hash:
                    continue
            elif not (may_be_copy(known.path, file.path) or known.is_known_as(file)):
                # The file is shorter than the known content, and nothing else suggests that it is a copy.
                continue
            alike.append(known)
        return sorted(alike, key=lambda known: (-known.byte_offset, known.file_id))

    def _renamed(self, file: LakeFile, known: Checkpoint) -> FileTask | None:
        """Return the task to go on with a file if it is one that is gone from its path; None if nothing shows that."""
        if may_become(known.path, file.path) or known.is_known_as(file):
            return FileTask(file, "grown", replace(known, path=file.path))
        if self._is_moved(file, known):
            message = f"it was {known.path}, by its content: what is loaded of that is not loaded again"
            return FileTask(file, "grown", replace(known, path=file.path), message=message)
        return None

    def _is_moved(self, file: LakeFile, known: Checkpoint) -> bool:
        """Whether a file begins with all loaded content of a file that is gone, and that content is unmistakable."""
        return is_one_of_a_kind(file.location, known.byte_offset) and begins_with(
            file.location, self._parts_of(known.file_id)
        )


def _continues_if_readable(file: LakeFile, known: Checkpoint) -> bool:
    try:
        return _continues(file, known)
    except LakeError:
        # Treat it as new: loading it reports the error.
        return False


def _as_another(known: Checkpoint) -> str:
    return (
        f"its first {known.line_count:,} lines are the same as those of {known.path}; "
        "nothing shows that it is a copy, so both are loaded"
    )


def _continues(file: LakeFile, known: Checkpoint) -> bool:
    """Whether the file begins with the loaded content, by the hashes of its first and last bytes."""
    if not known.byte_offset:
        return known.path == file.path
    head, tail = edges(file.location, known.byte_offset)
    return (fingerprint(head), fingerprint(tail)) == (known.head_hash, known.tail_hash)


def _copy(
    file: LakeFile, known: Checkpoint, original: LakeFile, beyond: int, *, goes_on: bool
) -> FileTask | None:
    """Return the task for a copy of the loaded file `original`; None if it is none, or shares nothing `beyond`. The
    copy `goes_on` if it has all that is loaded of the original; otherwise it may be its beginning."""
    is_copy = (
        may_be_copy(known.path, file.path)
        or known.is_known_as(file)
        # Hard links: two names of one file.
        or (file.inode is not None and file.inode == original.inode)
        or is_one_of_a_kind(file.location, known.byte_offset)
    )
    if not is_copy:
        return None
    shared = None
    if not goes_on:
        shared = _shared_if_beginning(file.location, original.location)
    elif _are_equal(file.location, original.location, known.byte_offset):
        shared = _shared(known, file)
    if shared is None or shared[0] <= beyond:
        return None
    message = f"its first {shared[1]:,} lines are those of {original.path}, and are not loaded again"
    return FileTask(file, "copy", None, *shared, message)


def _shared(known: Checkpoint, file: LakeFile) -> tuple[int, int, int | None]:
    """Return bytes, lines and unterminated last line that a file shares with a loaded one. A last line that is longer
    in the file is not shared."""
    with reading(file.location) as content:
        content.skip_to(known.byte_offset)
        after = content.read(2)
    if known.unterminated_line_offset is None or not after:
        return known.byte_offset, known.line_count, known.unterminated_line_offset
    if end := line_end(after):
        return known.byte_offset + end, known.line_count, None
    return known.unterminated_line_offset, known.line_count - 1, None


def _are_equal(one: Location, other: Location, byte_count: int) -> bool:
    """Whether two files have the same first bytes."""
    with reading(one) as first, reading(other) as second:
        while size := min(_READ, byte_count - first.position):
            piece = first.read(size)
            if len(piece) < size or second.read(size) != piece:
                return False
    return True


def _shared_if_beginning(short: Location, long: Location) -> tuple[int, int, int | None] | None:
    """Return bytes, lines and unterminated last line of a file if it is the beginning of another; else None."""
    byte_count = line_count = last_line = 0
    with reading(short) as part, reading(long) as whole:
        while piece := part.read(_READ):
            if whole.read(len(piece)) != piece:
                return None
            if b"\n" in piece:
                last_line = byte_count + piece.rindex(b"\n") + 1
            byte_count += len(piece)
            line_count += piece.count(b"\n")
    is_open = last_line < byte_count
    return (byte_count, line_count + is_open, last_line if is_open else None) if byte_count else None
