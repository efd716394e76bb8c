"""Owns the image where there is no container engine: the Dockerfile's own steps, in a mount namespace (Linux, root).

A stage is an overlay over this machine's files, which stand in for the base image; what is written stays in memory and
is gone with the namespace. What the steps are is read from the Dockerfile, what they may copy from .dockerignore.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path, PurePath

ROOT = Path(__file__).resolve().parent.parent
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 900  # seconds for one step: packages are fetched
# What a build needs of this machine to fetch packages; an engine passes proxies on, too.
PASSED = re.compile(r"(PIP_|SSL_CERT_|https?_proxy|no_proxy)", re.IGNORECASE)


def instructions(dockerfile: Path = ROOT / "Dockerfile") -> list[tuple[str, str]]:
    """Its instructions in order, each with what follows it."""
    kept = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(kept))
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def context() -> list[PurePath]:
    """The files that `COPY` can reach: the last line of .dockerignore that fits one, or a folder above it, decides."""
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    rules = [(line.lstrip("!"), line.startswith("!")) for line in lines if line and not line.startswith("#")]

    def is_sent(path: PurePath) -> bool:
        sent = True
        for pattern, keeps in rules:
            names = [path, *list(path.parents)[:-1]]
            if any(fnmatch.fnmatch(f"/{name}", f"/{pattern}".replace("/**/", "*/")) for name in names):
                sent = keeps
        return sent

    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in {".git", ".venv", "node_modules"}]
        found += [(Path(folder) / name).relative_to(ROOT) for name in files]
    return sorted(path for path in found if is_sent(path))


@dataclass
class Stage:
    name: str
    layers: list[str]  # the newest first
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)


class Image:
    """`build()` runs the steps; `start()` is a container of the last stage, `close()` forgets everything."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c",
             f"mount -t tmpfs -o mode=755 tmpfs {directory} && echo mounted && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"mounted\n"
        self._stages: dict[str, Stage] = {}
        self._args: dict[str, str] = {}
        self.stage = self._base = self._stand_in()

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()

    def inside(self, *parts: str) -> Path:
        """A path of ours as others see it: the namespace is the holder's."""
        return Path(f"/proc/{self._holder.pid}/root", *(part.lstrip("/") for part in (str(self.directory), *parts)))

    def files(self, folder: str) -> list[Path]:
        """What the steps made or copied there in the last stage."""
        root = self.inside(self.stage.name, "root", folder)
        return sorted(path.relative_to(root) for path in root.rglob("*") if not path.is_dir())

    def is_ours(self, path: str) -> bool:
        """Whether the base image or our steps have put it there, not this machine that stands in for the base."""
        return any(self.inside(*parts).exists() for parts in ((self.stage.name, "upper", path), ("base", path)))

    def size(self) -> int:
        """Bytes that the last stage adds to its base."""
        return sum(path.lstat().st_size for path in self.inside(self.stage.name, "upper").rglob("*"))

    def build(self) -> "Image":
        for name, rest in instructions():
            getattr(self, f"_do_{name.lower()}", self._ignore)(rest)
        return self

    def run(self, script: str, *, namespaces: tuple[str, ...] = ()) -> list[str]:
        """The command that runs a script of root's where the stages are mounted."""
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "unshare", "--mount", *namespaces,
                "sh", "-euc", script]  # fmt: skip

    def container(self, command: list[str], environment: dict[str, str], volumes: list[str]) -> list[str]:
        """What starts `command` as process 1 of the image: its user, no capability, and only volumes to write to.

        `volumes` are as in compose.yaml: `name:/path` or `name:/path:ro`.
        """
        root = f"{self.directory}/{self.stage.name}/root"
        anonymous = [path for path in self.stage.volumes if not any(f":{path}" in volume for volume in volumes)]
        script = "\n".join([
            *self._surroundings(root), f"mount -t proc proc {root}/proc", f"mount -t tmpfs tmpfs {root}/tmp",
            *(f"mount -t tmpfs -o mode=700,uid={self.uid},gid={self.uid} tmpfs {root}{path}" for path in anonymous),
            *(f"mount --bind {'-o ro' if mode else ''} {self._volume(name, path)} {root}{path}"
              for name, path, mode in ((*volume.split(":"), "")[:3] for volume in volumes)),
            f"mount -o remount,bind,ro {root}",
            f"exec {self._chroot(root, command, self.stage.env | {'HOME': '/'} | environment)}",
        ])  # fmt: skip
        return self.run(script, namespaces=("--pid", "--fork", "--kill-child"))

    def _volume(self, name: str, path: str) -> str:
        """A volume's folder; a new one takes its owner over from the image, if the image has that path."""
        folder, image_path = self.inside("volumes", name), self.inside(self.stage.name, "root", path)
        if not folder.exists():
            folder.mkdir(parents=True)
            if image_path.exists():
                os.chown(folder, image_path.stat().st_uid, image_path.stat().st_gid)
                folder.chmod(image_path.stat().st_mode)
        image_path.mkdir(exist_ok=True)  # where it is mounted: an engine makes it, too
        return f"{self.directory}/volumes/{name}"

    def exec(self, pid: int, command: list[str]) -> subprocess.CompletedProcess[str]:
        """As `docker exec`: beside process 1, which is `pid` out here."""
        enter = ["nsenter", f"--target={pid}", "--mount", "--pid", "--root", "--wd=/"]
        inner = self._as_user(command, self.stage.env | {"HOME": "/"})
        return subprocess.run([*enter, *inner], capture_output=True, text=True, timeout=60)

    @property
    def uid(self) -> str:
        return self.stage.user.partition(":")[0]

    # --- Instructions --------------------------------------------------------------------------------

    def _stand_in(self) -> Stage:
        """This machine as the base image, with a copy of its Python where the base image has it."""
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        local = self.inside("base", "usr/local")
        (local / "bin").mkdir(parents=True)
        shutil.copy2(Path(sys.base_prefix, "bin", python), local / "bin" / python)
        for name in ("python", "python3"):
            (local / "bin" / name).symlink_to(python)
        library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
        left_out = shutil.ignore_patterns("site-packages", "dist-packages", "test", "__pycache__", "config-*")
        shutil.copytree(library, local / "lib" / python, ignore=left_out, symlinks=True)
        (local / "lib" / python / "site-packages" / "pip").mkdir(parents=True)  # the base image has one
        for shared in Path(sys.base_prefix, "lib").glob(f"lib{python}*.so*"):
            shutil.copy2(shared, local / "lib", follow_symlinks=False)
        return Stage("", [f"{self.directory}/base", "/"], {"PATH": BASE_PATH, "LD_LIBRARY_PATH": "/usr/local/lib"})

    def _ignore(self, rest: str) -> None:
        """LABEL, EXPOSE and STOPSIGNAL make no files."""

    def _do_arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self._args[name] = value

    def _do_from(self, rest: str) -> None:
        image, _, name = rest.partition(" AS ")
        assert image in self._stages or "python:" in self._expanded(image, self._args), f"nothing stands in for {image}"
        base = self._stages.get(image, self._base)
        name = name or "final"
        self.stage = Stage(name, base.layers, dict(base.env), base.workdir, base.user)
        self._stages[name] = self.stage
        for folder in ("upper", "work", "root"):
            self.inside(name, folder).mkdir(parents=True)
        own = f"{self.directory}/{name}"
        layers = ":".join(self.stage.layers)
        options = f"lowerdir={layers},upperdir={own}/upper,workdir={own}/work"
        # In the holder's own namespace: it stays.
        subprocess.run(["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt",
                        "mount", "-t", "overlay", "-o", options, "overlay", f"{own}/root"], check=True)  # fmt: skip
        self.stage.layers = [f"{own}/upper", *self.stage.layers]

    def _do_env(self, rest: str) -> None:
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            self.stage.env[name] = self._expanded(value, self.stage.env)

    def _do_workdir(self, rest: str) -> None:
        self.stage.workdir = rest
        self.inside(self.stage.name, "root", rest).mkdir(parents=True, exist_ok=True)

    def _do_user(self, rest: str) -> None:
        self.stage.user = rest

    def _do_volume(self, rest: str) -> None:
        self.stage.volumes += rest.split()

    def _do_entrypoint(self, rest: str) -> None:
        self.stage.entrypoint = json.loads(rest)

    def _do_cmd(self, rest: str) -> None:
        self.stage.command = json.loads(rest)

    def _do_healthcheck(self, rest: str) -> None:
        self.stage.healthcheck = json.loads(rest.partition(" CMD ")[2])

    def _do_copy(self, rest: str) -> None:
        words = shlex.split(self._expanded(rest, self._args))
        if words[0].startswith("--from="):
            stage, source, target = words[0].removeprefix("--from="), words[1], words[2]
            ends = [
                f"{self.directory}/{name}/root{path}" for name, path in ((stage, source), (self.stage.name, target))
            ]
            subprocess.run(self.run(shlex.join(["cp", "--archive", *ends])), check=True)
            return
        source, target = words
        for path in context():
            if source != "." and PurePath(source) != path:
                continue
            into = PurePath(self.stage.workdir, target, path) if source == "." else PurePath(target)
            destination = self.inside(self.stage.name, "root", str(into))
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, destination)

    def _do_run(self, rest: str) -> None:
        root = f"{self.directory}/{self.stage.name}/root"
        passed = {name: value for name, value in os.environ.items() if PASSED.match(name)}
        step = self._chroot(root, ["sh", "-c", rest], self.stage.env | {"HOME": "/tmp"} | passed)
        script = "\n".join([*self._surroundings(root), f"mount --bind /proc {root}/proc", f"exec {step}"])
        done = subprocess.run(self.run(script), capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"RUN {rest}\n{done.stdout}{done.stderr}"

    # --- Details -------------------------------------------------------------------------------------

    def _surroundings(self, root: str) -> list[str]:
        """Devices, and nothing of this checkout or its owner's."""
        return [
            f"mount --rbind /dev {root}/dev",
            *(f"mount -t tmpfs -o mode=000 tmpfs {root}{hidden}" for hidden in (ROOT, Path.home())),
        ]

    def _chroot(self, root: str, command: list[str], environment: dict[str, str]) -> str:
        return shlex.join(["chroot", root, "sh", "-c", f"cd {self.stage.workdir} && exec \"$@\"", "sh",
                           *self._as_user(command, environment)])  # fmt: skip

    def _as_user(self, command: list[str], environment: dict[str, str]) -> list[str]:
        uid, _, gid = self.stage.user.partition(":")
        drop = [] if uid == "0" else ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups",
                                      "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]  # fmt: skip
        return [*drop, "env", "-i", *(f"{name}={value}" for name, value in environment.items()), *command]

    @staticmethod
    def _expanded(text: str, values: dict[str, str]) -> str:
        return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], ""), text)
