"""Owns what is asked of a directory's file system: what it is, whether locks hold on it, whether it can be written."""

import errno
import os
import tempfile
from pathlib import Path

# flock is advisory or absent there, and a write may be lost after it was acknowledged.
NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "glusterfs", "lustre", "gfs2", "ocfs2", "beegfs",
    "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.mount-s3",
}  # fmt: skip
# Reserved space is written in place there, so a page of it always can be: not so where a copy may share blocks (XFS).
IN_PLACE = {"ext4", "tmpfs"}


def file_system(directory: str | os.PathLike[str], *, mounts: str = "/proc/self/mountinfo") -> str:
    """Its type, as `ext4`, by proc(5)'s table of mounts; "" where there is no such table."""
    wanted = nearest(directory).resolve()
    found, longest = "", -1
    try:
        lines = Path(mounts).read_bytes().split(b"\n")[:-1]  # names may hold all else that Python ends lines at
    except OSError:
        return ""
    for line in lines:
        mount, _, kind = line.partition(b" - ")
        point = os.fsdecode(mount.split(b" ")[4].decode("unicode_escape").encode("latin-1"))  # blanks are \040 there
        # A later mount on the same point hides the earlier one.
        if wanted.is_relative_to(point) and len(point) >= longest:
            found, longest = kind.split()[0].decode(), len(point)
    return found


def nearest(directory: str | os.PathLike[str]) -> Path:
    """The directory, or the closest one above it that exists."""
    path = Path(directory).absolute()
    while not path.exists():
        path = path.parent
    return path


def is_writable(directory: str | os.PathLike[str]) -> bool:
    """Whether files can be made in it, or it can be made itself. Tried: /proc lets root write, and takes no file."""
    try:
        with tempfile.TemporaryFile(dir=nearest(directory)):
            return True
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)  # the journal says so, and works again once there is room


def is_locked(file: Path) -> bool | None:
    """Whether some process holds a flock on it; None where the kernel does not tell. Takes no lock to find out."""
    try:
        inode = str(file.stat().st_ino)
        held = Path("/proc/locks").read_text().splitlines()
    except FileNotFoundError:
        return False if not file.exists() else None
    except OSError:
        return None
    # 1: FLOCK  ADVISORY  WRITE 1234 fe:01:5678 0 EOF; waiting ones have `->`. Devices may differ on layered systems.
    return any("FLOCK" in line and "->" not in line and line.split()[5].rpartition(":")[2] == inode for line in held)


def free_bytes(directory: str | os.PathLike[str]) -> int:
    disk = os.statvfs(nearest(directory))
    return disk.f_bavail * disk.f_frsize
