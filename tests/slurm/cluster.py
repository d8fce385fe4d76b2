"""A real SLURM on one machine: controller, several nodes with fake GPUs, and accounting.

    python -m tests.slurm.cluster start /tmp/my-slurm     prints the line to export
    python -m tests.slurm.cluster stop /tmp/my-slurm

Debian's slurmctld, slurmd, slurmdbd, munge and mariadb, all in one folder with keys and ports of
their own: a SLURM that is there already is neither used nor touched, and only what was started
here is ended. Needs root, as slurmd does.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "slurmdbd", "mariadb-server")
"""Debian's packages, as .ci/run installs them."""

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd", "mariadb-install-db")

_CONTROLLERS = ("freezer", "memory", "cpuset")
_CGROUPS = Path("/sys/fs/cgroup")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

# What clusters of one machine share is dealt out by places. Ports lie below those that the system
# gives to whoever asks for any, and below those of Lightning: 15000 and a job's last four digits.
_PLACES, _PORT, _PORTS, _JOBS = 20, 11_000, 16, 500


class ClusterError(RuntimeError):
    """The cluster cannot be started, or does not answer."""


def missing() -> str:
    """Why no cluster can run here; empty if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a SLURM of our own needs root on Linux"
    lacking = [name for name in PROGRAMS if _program(name) is None]
    if lacking:
        return f"no {', '.join(lacking)} here: apt-get install {' '.join(PACKAGES)}"
    return ""


@dataclass(frozen=True)
class Size:
    """What the cluster pretends to have.

    Attributes:
        nodes: Number of nodes.
        cpus: Of each node; may be more than the machine has.
        memory_mb: Of each node, likewise.
        gpus: Fake GPUs of each node.
    """

    nodes: int = 2
    cpus: int = 8
    memory_mb: int = 64_000
    gpus: int = 2


class Cluster:
    """One cluster in one folder.

    Args:
        folder: Where all of it lies; made when it starts. Sockets lie in it, so its path has at
            most 70 characters.
        size: What it pretends to have.
    """

    def __init__(self, folder: Path, size: Size = Size()) -> None:
        self.folder, self.size = folder.resolve(), size
        self._started: dict[str, tuple[int, float]] = {}
        self.name = "tesela"
        self._place: _Place | None = None

    @property
    def conf(self) -> Path:
        """The slurm.conf."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes; of this cluster alone, as they name control groups of the machine."""
        return [f"{self.name}-{number + 1}" for number in range(self.size.nodes)]

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which SLURM's commands speak to this cluster, and to no other.

        The nodes' names stand in no name service, so training over several is told where its
        first process is; on a cluster they do. And the nodes' processors are more than the
        machine's: threads that wait for each other have to leave them to others meanwhile.
        """
        own = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        path = f"{own.get('PATH', '')}:{_SBIN}"
        return {
            **own,
            "PATH": path,
            "SLURM_CONF": str(self.conf),
            "MASTER_ADDR": "127.0.0.1",
            "OMP_WAIT_POLICY": "passive",
        }

    # ---- start and stop ---------------------------------------------------------------------

    def start(self) -> None:
        """Start all of it and wait until every node is idle.

        Raises:
            ClusterError: If something does not start; what was started is ended again.
        """
        if why := missing():
            raise ClusterError(why)
        if len(str(self.folder)) > 70:
            raise ClusterError(f"{self.folder}: too long a path for sockets")
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self.name = f"t{secrets.token_hex(3)}"
        for name in ("etc", "run", "log", "state", "gpu", "db"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            (self.folder / "spool" / node).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._place = _Place.taken(3 + self.size.nodes)
        ports = self._place.ports
        self._write_configuration(ports, self._place.first_job)
        self._save()
        self._start_munge()
        self._start_accounting(ports[2])
        self._spawn("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        self._await("slurmctld answers", 20, lambda: self._answers("scontrol", "ping"))
        for node in self.nodes:
            self.start_node(node)
        self._await("all nodes are up", 30, lambda: set(self.idle()) == set(self.nodes))

    def stop(self) -> None:
        """Cancel all jobs and end what was started here; the folder stays, for its logs."""
        if self._is_running("slurmctld") and (jobs := self.jobs()):
            self.run("scancel", *jobs, check=False)
            with suppress(ClusterError):
                self._await("jobs end", 10, lambda: not self.jobs())
        for name in reversed(list(self._started)):
            self._end(name)
        for process in self._strays():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for node in self.nodes:
            for folder in sorted(_CGROUPS.glob(f"*/slurm_{node}"), reverse=True):
                _remove_cgroup(folder)
        if self._place is not None:
            self._place.lock.close()
        self._save()

    # ---- what tests do with it --------------------------------------------------------------

    def run(self, *command: str, check: bool = True, **more: object) -> str:
        """What one of SLURM's commands prints.

        Raises:
            ClusterError: If it fails and ``check`` says that it may not.
        """
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False,
            **more,  # type: ignore[call-overload]
        )  # fmt: skip
        if check and done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return str(done.stdout)

    def jobs(self, *states: str) -> list[str]:
        """Ids of the jobs in the queue, or of those in these states."""
        asked = ["--states", ",".join(states)] if states else []
        return self.run("squeue", "--noheader", "--format=%A", *asked).split()

    def job(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` tells of a job, by name."""
        words = self.run("scontrol", "show", "job", job, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def idle(self) -> list[str]:
        """Names of the nodes that can take a job."""
        told = self.run(
            "sinfo", "-h", "-N", "-p", "cpu", "-t", "idle,alloc,mix,comp", "-o", "%N", check=False
        )
        return sorted(set(told.split()))

    def kill_node(self, node: str) -> None:
        """Crash a node: its daemon, its jobs' processes and all they started are gone at once.

        SLURM is told, so that it does not wait for the node; jobs that may be requeued are.
        """
        victims = [*self._processes_of(node)]
        if (daemon := self._process(f"slurmd-{node}")) is not None:
            victims.insert(0, daemon)
        # A crash leaves nobody the time to see that another is gone, and to clean up after it.
        for blow in (psutil.Process.suspend, psutil.Process.kill):
            for process in victims:
                with suppress(psutil.NoSuchProcess):
                    blow(process)
        psutil.wait_procs(victims, timeout=10)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")

    def lose_node(self, node: str) -> None:
        """Cut a node off: its daemon is gone and SLURM says it is down, but its jobs run on."""
        if (daemon := self._process(f"slurmd-{node}")) is not None:
            daemon.kill()
            daemon.wait(10)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def start_node(self, node: str) -> None:
        """Start a node's daemon, and bring the node back if it was down."""
        if not self._is_running(f"slurmd-{node}"):
            # Daemons of its jobs' steps have the same working directory: that tells whose they are.
            place = self.folder / "spool" / node
            # The executor takes SLURM_CONF from rules, so in the jobs' own view of the files
            # this cluster's configuration lies where SLURM looks for it by itself.
            Path("/etc/slurm").mkdir(exist_ok=True)
            view = f"mount --bind '{self.conf.parent}' /etc/slurm && exec \"$@\""
            daemon = (_program("slurmd") or "", "-D", "-N", node, "-f", str(self.conf))
            self._spawn(
                f"slurmd-{node}", "unshare", "--mount", "sh", "-c", view, "view", *daemon,
                place=place,
            )  # fmt: skip
        self._await(
            f"{node} answers",
            20,
            lambda: "NOT_RESPONDING" not in self.run("scontrol", "show", "node", node),
        )
        self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)

    # ---- processes --------------------------------------------------------------------------

    def _spawn(self, name: str, program: str, *arguments: str, place: Path | None = None) -> None:
        log = (self.folder / "log" / f"{name}.out").open("ab")
        with log:
            process = psutil.Popen(
                [_program(program) or program, *arguments], env=self.environment, stdout=log,
                stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                cwd=place or self.folder / "run",
            )  # fmt: skip
        self._started[name] = (process.pid, process.create_time())
        self._save()

    def _process(self, name: str) -> psutil.Process | None:
        """A daemon of ours, if it runs: a number given to another process since does not count."""
        pid, born = self._started.get(name, (0, 0.0))
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def _is_running(self, name: str) -> bool:
        return self._process(name) is not None

    def _end(self, name: str) -> None:
        process = self._process(name)
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(15)
                except psutil.TimeoutExpired:
                    process.kill()
                    process.wait(15)
        self._started.pop(name, None)

    def _processes_of(self, node: str) -> Iterator[psutil.Process]:
        """All processes of a node's jobs, and the daemons of their steps."""
        spool = str(self.folder / "spool" / node)
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                step = process.name() == "slurmstepd" and process.cwd() == spool
                groups = Path(f"/proc/{process.pid}/cgroup").read_text("utf-8")
                if step or process.environ().get("SLURMD_NODENAME") == node or node in groups:
                    yield process

    def _strays(self) -> Iterator[psutil.Process]:
        own = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                environment = process.environ()
                in_a_job = "SLURM_JOB_ID" in environment or process.name() == "slurmstepd"
                ours = environment.get("SLURM_CONF") == str(self.conf)
                if in_a_job and ours and process.pid not in own:
                    yield process

    def _answers(self, *command: str) -> bool:
        try:
            return "DOWN" not in self.run(*command)
        except (ClusterError, subprocess.TimeoutExpired):
            return False

    def _await(self, what: str, seconds: float, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                logs = sorted((self.folder / "log").iterdir())
                told = [f"== {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in logs]
                raise ClusterError("\n".join([f"not within {seconds:.0f} s: {what}", *told]))
            time.sleep(0.1)

    # ---- the state that `stop` of another process reads --------------------------------------

    def _save(self) -> None:
        content = {"name": self.name, "size": asdict(self.size), "started": self._started}
        (self.folder / "cluster.json").write_text(json.dumps(content), "utf-8")

    @classmethod
    def opened(cls, folder: Path) -> Cluster:
        """The cluster that was started in a folder."""
        content = json.loads((folder / "cluster.json").read_text("utf-8"))
        cluster = cls(folder, Size(**content["size"]))
        cluster.name = content["name"]
        cluster._started = {k: (int(v[0]), float(v[1])) for k, v in content["started"].items()}
        return cluster

    # ---- configuration ----------------------------------------------------------------------

    def _start_munge(self) -> None:
        key = self.folder / "etc" / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        place = self.folder / "run"
        self._spawn(
            "munged", "munged", "--foreground", "--force", f"--key-file={key}",
            f"--socket={place / 'munge'}", f"--pid-file={place / 'munged.pid'}",
            f"--seed-file={place / 'munge.seed'}", "--log-file=/dev/null",
        )  # fmt: skip
        self._await("munged listens", 10, lambda: (place / "munge").is_socket())

    def _start_accounting(self, port: int) -> None:
        data, place = self.folder / "db" / "data", self.folder / "run" / "mysqld"
        if not data.exists():
            install = [
                _program("mariadb-install-db") or "", "--no-defaults", "--user=root",
                f"--datadir={data}", "--auth-root-authentication-method=socket", "--skip-test-db",
            ]  # fmt: skip
            done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=120)
            if done.returncode:
                raise ClusterError(f"mariadb-install-db: {done.stderr}{done.stdout}")
        self._spawn(
            "mariadbd", "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}",
            f"--socket={place}", "--bind-address=127.0.0.1", f"--port={port}",
            "--skip-name-resolve", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M",
            "--innodb-lock-wait-timeout=900", f"--pid-file={place}.pid",
        )  # fmt: skip
        sql = ["mariadb", "--no-defaults", f"--socket={place}", "-e"]
        self._await("mariadbd answers", 30, lambda: self._answers(*sql, "select 1"))
        self.run(
            *sql,
            "create database if not exists slurm_acct_db; "
            "create user if not exists slurm@'127.0.0.1' identified by 'slurm'; "
            "grant all on slurm_acct_db.* to slurm@'127.0.0.1';",
        )
        self._spawn("slurmdbd", "slurmdbd", "-D")
        manager = ("sacctmgr", "-n")
        self._await("slurmdbd answers", 30, lambda: self._answers(*manager, "list", "cluster"))
        if "tesela" not in self.run(*manager, "list", "cluster", "format=cluster"):
            self.run("sacctmgr", "-i", "add", "cluster", "tesela")
            self.run("sacctmgr", "-i", "add", "account", "forest", "cluster=tesela")
            self.run("sacctmgr", "-i", "add", "user", "root", "account=forest", "cluster=tesela")

    def _write_configuration(self, ports: list[int], first_job: int) -> None:
        (self.folder / "etc" / "gres.conf").write_text(
            f"AutoDetect=off\nName=gpu Type=v100 File={self._gpu_files()}\n", "utf-8"
        )
        grouped = _has_cgroups()
        if grouped:
            (self.folder / "etc" / "cgroup.conf").write_text(
                f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={_CGROUPS}\nConstrainRAMSpace=yes\n"
                "ConstrainSwapSpace=no\nConstrainCores=no\nConstrainDevices=no\n",
                "utf-8",
            )
        database = self.folder / "etc" / "slurmdbd.conf"
        values = {"run": self.folder / "run", "log": self.folder / "log"}
        database.write_text(
            "AuthType=auth/munge\n"
            f"AuthInfo=socket={values['run'] / 'munge'}\n"
            f"DbdHost=localhost\nDbdPort={ports[1]}\nSlurmUser=root\n"
            f"PidFile={values['run'] / 'slurmdbd.pid'}\nLogFile={values['log'] / 'slurmdbd.log'}\n"
            "StorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\n"
            f"StoragePort={ports[2]}\nStorageUser=slurm\nStoragePass=slurm\n"
            "StorageLoc=slurm_acct_db\n",
            "utf-8",
        )
        database.chmod(0o600)
        tracking = (
            "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup"
            if grouped
            else "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n"
            "JobAcctGatherParams=OverMemoryKill"
        )
        size = self.size
        nodes = "\n".join(
            f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={size.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={size.cpus} "
            f"ThreadsPerCore=1 RealMemory={size.memory_mb} Gres=gpu:v100:{size.gpus} "
            "Feature=infiniband State=UNKNOWN"
            for node, port in zip(self.nodes, ports[3:], strict=True)
        )
        limits = "MaxTime=1-0 DefaultTime=0:10:00 DefMemPerCPU=1000 State=UP"
        partitions = "\n".join(
            f"PartitionName={name} Nodes=ALL PriorityTier={tier} {more} {limits}"
            for name, tier, more in (
                ("cpu", 1, "Default=YES PreemptMode=REQUEUE"),
                # Jobs that are preempted are warned, and have so many seconds.
                ("gpu", 1, "PreemptMode=REQUEUE GraceTime=15"),
                # Those of the second example profile.
                ("standard", 1, "PreemptMode=REQUEUE"),
                ("accelerated", 1, "PreemptMode=REQUEUE GraceTime=15"),
                # Its jobs preempt those of all the others.
                ("urgent", 10, "PreemptMode=OFF"),
            )
        )
        self.conf.write_text(
            f"""# Written by tests/slurm/cluster.py.
ClusterName=tesela
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits for as long as credentials live: two minutes if nothing is said.
AuthInfo=socket={values["run"] / "munge"},cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={values["run"] / "slurmctld.pid"}
SlurmctldLogFile={values["log"] / "slurmctld.log"}
StateSaveLocation={self.folder / "state"}
SlurmdPidFile={values["run"] / "slurmd-%n.pid"}
SlurmdLogFile={values["log"] / "slurmd-%n.log"}
SlurmdSpoolDir={self.folder / "spool" / "%n"}
MailProg=/bin/true
{tracking}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Two cores pose as two nodes of four.
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=100000,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
JobFileAppend=1
KillWait=5
InactiveLimit=0
CompleteWait=0
EpilogMsgTime=0
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=20
MessageTimeout=30
TCPTimeout=10
MinJobAge=600
MaxArraySize=1001
# Training finds its port by the job's number, and tests find its processes.
FirstJobId={first_job}
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={ports[1]}
# Of munge, this is not the password but the socket.
AccountingStoragePass={values["run"] / "munge"}
AccountingStorageTRES=gres/gpu
GresTypes=gpu
{nodes}
{partitions}
""",
            "utf-8",
        )

    def _gpu_files(self) -> str:
        """A character device a GPU: copies of /dev/null, or devices that are there."""
        made = []
        for number in range(self.size.gpus):
            device = self.folder / "gpu" / f"gpu{number}"
            if not device.exists():
                try:
                    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
                except OSError:
                    return "/dev/null,/dev/zero,/dev/full,/dev/random"[: 11 * self.size.gpus - 1]
            made.append(str(device))
        return ",".join(made)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}")


@dataclass(frozen=True)
class _Place:
    """Ports and numbers of jobs that no other cluster of this machine has.

    Attributes:
        lock: Held for as long as the cluster is this process's; its daemons hold their ports.
        ports: Of the daemons.
        first_job: Number of the first job.
    """

    lock: socket.socket
    ports: list[int]
    first_job: int

    @classmethod
    def taken(cls, count: int) -> _Place:
        """The first place that is free, with so many ports.

        Raises:
            ClusterError: If none is.
        """
        for place in range(1, _PLACES):
            first = _PORT + place * _PORTS
            ports = list(range(first, first + count))
            lock = socket.socket(socket.AF_UNIX)
            try:
                lock.bind(f"\0tesela-slurm-{place}")
                for port in ports:
                    with socket.socket() as probe:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        probe.bind(("", port))
            except OSError:
                lock.close()
            else:
                return cls(lock, ports, 10_000 + place * _JOBS)
        raise ClusterError(f"{_PLACES - 1} clusters run here, or all their ports are taken")


def _has_cgroups() -> bool:
    """Whether control groups of version 1 can be made here: what exceeds its memory is killed."""
    for name in _CONTROLLERS:
        probe = _CGROUPS / name / f"tesela-probe-{os.getpid()}"
        try:
            if f" {_CGROUPS / name} cgroup " not in Path("/proc/mounts").read_text("utf-8"):
                return False
            probe.mkdir()
            probe.rmdir()
        except OSError:
            return False
    return True


def _remove_cgroup(folder: Path) -> None:
    for inner in sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True):
        if inner.is_dir():
            with suppress(OSError):
                inner.rmdir()
    with suppress(OSError):
        folder.rmdir()


def main(arguments: list[str]) -> int:
    """Start or stop a cluster; see the head of this file."""
    if len(arguments) != 2 or arguments[0] not in ("start", "stop"):
        print("python -m tests.slurm.cluster start|stop FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[1])
    try:
        if arguments[0] == "stop":
            Cluster.opened(folder).stop()
            return 0
        cluster = Cluster(folder)
        cluster.start()
    except (ClusterError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    own: Mapping[str, str] = cluster.environment
    print(f"export SLURM_CONF={own['SLURM_CONF']} MASTER_ADDR={own['MASTER_ADDR']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
