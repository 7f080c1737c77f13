"""A real SLURM on this machine for the tests: two virtual nodes, accounting, a preemptible partition and an urgent one.

python3 tests/launch/slurm_cluster.py start    (as root, on Debian) installs what is missing and prints what to export
python3 tests/launch/slurm_cluster.py stop

All files lie under $TBPTT_SLURM (default /tmp/tbptt-slurm); daemons are stopped by the process ids they left there.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

ROOT = Path(os.environ.get("TBPTT_SLURM", "/tmp/tbptt-slurm"))
CONF, RUN, LOG = ROOT / "etc/slurm.conf", ROOT / "run", ROOT / "log"
NODES, CPUS, GPUS = 2, 8, 4  # CPUs and GPUs are declared, not looked for; the GPUs are stand-ins
DAEMONS = ("slurmd-node0", "slurmd-node1", "slurmctld", "slurmdbd", "mariadbd", "munged")  # in the order of their end
PACKAGES = {
    "munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server", "ps": "procps",
}  # fmt: skip

SLURM_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
# A requeued job waits until its credential has expired: by default two minutes.
AuthInfo=socket={run}/munge,cred_expire=5
AuthType=auth/munge
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd-%n.pid
SlurmctldLogFile={log}/slurmctld.log
SlurmdLogFile={log}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={run}/munge
JobRequeue=1
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
NodeName=node[0-{last}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] CPUs={cpus} \
RealMemory=16000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

DBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={run}/munge
CommunicationParameters=NoInAddrAny
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
LogFile={log}/slurmdbd.log
PidFile={run}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""


def start() -> None:
    if os.geteuid() != 0:
        sys.exit("A SLURM for the tests can only be started by root.")
    os.environ["SLURM_CONF"] = str(CONF)
    if all(map(_pid, DAEMONS)):
        print(f"export SLURM_CONF={CONF}")
        return
    stop()
    # What a cluster that was killed has left (numbers of processes, jobs, locks) would be taken for this one's.
    shutil.rmtree(ROOT, ignore_errors=True)
    for folder in ("etc", "run", "log", "state", "spool", "dev", "munge"):
        (ROOT / folder).mkdir(parents=True)
    _install()
    port = _free_ports()
    _write_files(port)
    munge = [f"--key-file={ROOT}/munge/key", f"--seed-file={ROOT}/munge/seed", f"--log-file={LOG}/munged.log"]
    _daemon("munged", "munged", "--force", f"--socket={RUN}/munge", f"--pid-file={RUN}/munged.pid", *munge)
    _start_database(port + 2)
    _daemon("slurmdbd", "slurmdbd")
    _wait("accounting", lambda: _ok("sacctmgr", "-n", "show", "cluster"))
    _ok("sacctmgr", "-i", "add", "cluster", "tests")
    _daemon("slurmctld", "slurmctld", "-f", str(CONF))
    for node in range(NODES):
        _daemon(f"slurmd-node{node}", "slurmd", "-f", str(CONF), "-N", f"node{node}")
    _wait("all nodes", lambda: _says("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == ["idle"] * NODES)
    print(f"export SLURM_CONF={CONF}")


def stop() -> None:
    os.environ["SLURM_CONF"] = str(CONF)
    if _pid("slurmctld"):
        _ok("scancel", "--me")
    for name in DAEMONS:
        if pid := _pid(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            _wait(f"the end of {name}", lambda name=name: not _pid(name))


def _install() -> None:
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if missing:
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            result = subprocess.run(["apt-get", "-qq", *words], env=env, capture_output=True, text=True)
            if result.returncode:
                sys.exit(f"apt-get {' '.join(words)} failed:\n{result.stdout}{result.stderr}")


def _free_ports() -> int:
    """The first of as many neighbouring ports as the daemons need, none of which is in use."""
    for first in range(17_810, 27_810, 100):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + 10 + NODES):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    sys.exit("no free ports for a SLURM of the tests from 17810 on")


def _write_files(port: int) -> None:
    host = socket.gethostname().split(".")[0]
    for name in [host, *(f"node{i}" for i in range(NODES))]:  # ranks find each other by the names of their nodes
        with contextlib.suppress(OSError):
            socket.gethostbyname(name)
            continue
        with open("/etc/hosts", "a") as hosts:
            hosts.write(f"127.0.0.1 {name}\n")
    for i in range(NODES):
        (ROOT / f"spool/node{i}").mkdir(exist_ok=True)
    for i in range(GPUS):
        path = ROOT / f"dev/gpu{i}"
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))  # a character device, like /dev/null
    key, password = ROOT / "munge/key", ROOT / "etc/password"
    for path, content in ((key, secrets.token_bytes(128)), (password, secrets.token_hex(12).encode())):
        path.touch(0o600)
        path.write_bytes(content)
    key.parent.chmod(0o700)
    values = {
        "host": host, "root": ROOT, "run": RUN, "log": LOG, "password": password.read_text(), "cpus": CPUS,
        "gpus": GPUS, "port": port, "dbd_port": port + 1, "sql_port": port + 2, "first_port": port + 10,
        "last_port": port + 9 + NODES, "last": NODES - 1,
    }  # fmt: skip
    CONF.write_text(SLURM_CONF.format(**values))
    dbd = ROOT / "etc/slurmdbd.conf"
    dbd.touch(0o600)
    dbd.write_text(DBD_CONF.format(**values))
    (ROOT / "etc/gres.conf").write_text(f"NodeName=node[0-{NODES - 1}] Name=gpu File={ROOT}/dev/gpu[0-{GPUS - 1}]\n")


def _start_database(port: int) -> None:
    data, socket_file = ROOT / "mysql", RUN / "mysql"
    install = ["--no-defaults", f"--datadir={data}", "--user=root", "--auth-root-authentication-method=socket"]
    subprocess.run(["mariadb-install-db", *install], check=True, stdout=(LOG / "install.log").open("w"))
    words = [f"--datadir={data}", "--user=root", "--bind-address=127.0.0.1", f"--port={port}", "--skip-name-resolve"]
    words += [f"--socket={socket_file}", f"--pid-file={RUN}/mariadbd.pid"]
    _daemon("mariadbd", "mariadbd", "--no-defaults", *words, wait=False)
    client = ["mariadb", "--no-defaults", "-uroot", "-S", str(socket_file), "-e"]
    _wait("the database", lambda: _ok(*client, "select 1"))
    user, password = "slurm@'127.0.0.1'", (ROOT / "etc/password").read_text()
    statements = [
        "create database slurm_acct_db",
        f"create user {user} identified by '{password}'",
        f"grant all on slurm_acct_db.* to {user}",
    ]
    subprocess.run([*client, "; ".join(statements)], check=True)


def _daemon(name: str, *words: str, wait: bool = True) -> None:
    """Start one. `wait`: it returns when it has gone to the background by itself."""
    output = (LOG / f"{name}.out").open("a")
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    if wait and process.wait():
        _give_up(f"{name} did not start")


def _pid(name: str) -> int | None:
    """The process that a daemon's file tells, if it still is that daemon."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((RUN / f"{name}.pid").read_text())
        status = Path(f"/proc/{pid}/status").read_text()
        if name.split("-")[0][:15] in status.split("\n")[0] and "State:\tZ" not in status:
            return pid
    return None


def _ok(*words: str) -> bool:
    return subprocess.run(words, capture_output=True).returncode == 0


def _says(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True).stdout


def _wait(what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            _give_up(f"waited in vain for {what}")
        time.sleep(0.2)


def _give_up(why: str) -> NoReturn:
    """Exit with 1 and the last lines of every log: nobody can look into those of a CI."""
    logs = {path.name: path.read_text(errors="replace").splitlines()[-8:] for path in sorted(LOG.iterdir())}
    sys.exit("\n".join([why, *(f"{name}: {line}" for name, lines in logs.items() for line in lines)]))


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]]()
