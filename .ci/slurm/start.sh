#!/usr/bin/env bash
# A Slurm of one node for tests: munged, slurmctld and slurmd with a configuration of their own in FOLDER, on loopback
# alone. It has two GPUs that are none, jobs may be requeued, and nothing outside of FOLDER is touched. Neither
# systemd nor control groups are needed; whoever starts it is the one whose jobs run.
#
#   eval "$(.ci/slurm/start.sh FOLDER)"    # sets SLURM_CONF, for sbatch, squeue and scontrol
#   .ci/slurm/stop.sh FOLDER
#
# Exit code 3 when a program is missing (Debian: slurmctld, slurmd, slurm-client and munge), 4 when it does not come up.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

[ $# -eq 1 ] || { echo "usage: start.sh FOLDER" >&2; exit 2; }
for program in munged slurmctld slurmd sbatch scontrol; do
	command -v "$program" >/dev/null || { echo "start.sh: $program is missing" >&2; exit 3; }
done

mkdir -p "$1"
folder="$(cd "$1" && pwd -P)"
mkdir -p "$folder"/{munge,state,spool,log}
chmod 700 "$folder/munge"
trap '[ "$?" -eq 0 ] || "$(dirname "$0")/stop.sh" "$folder"' EXIT

# Two ports that are free now.
read -r ctld_port d_port < <(python3 - <<'PYTHON'
import socket

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))
PYTHON
)
node="$(hostname -s)"
memory="$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)"
cores="$(getconf _NPROCESSORS_ONLN)"
[ "$cores" -ge 2 ] || cores=2
# A GPU has to be a device; any will do.
ln -sf /dev/null "$folder/gpu0"
ln -sf /dev/zero "$folder/gpu1"

cat >"$folder/gres.conf" <<CONF
NodeName=$node Name=gpu Type=fake File=$folder/gpu[0-1]
CONF

cat >"$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$ctld_port
SlurmdPort=$d_port
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CryptoType=crypto/munge
# A requeued job waits as long as a credential lasts: two minutes, were it not for this.
AuthInfo=socket=$folder/munge/socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
# Two jobs run at once whatever cores there are, and the memory is what /proc says, also within a container.
SlurmdParameters=config_overrides
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1024
MailProg=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=10
MinJobAge=600
MaxArraySize=10001
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory Gres=gpu:fake:2 State=UNKNOWN
PartitionName=low Nodes=$node Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=$node Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
export SLURM_CONF="$folder/slurm.conf"

head -c 1024 /dev/urandom >"$folder/munge/key"
chmod 400 "$folder/munge/key"
munged --force --syslog --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
	--seed-file="$folder/munge/seed" --log-file="$folder/log/munged.log" >&2 2>/dev/null
slurmctld -c -f "$SLURM_CONF" >&2
slurmd -f "$SLURM_CONF" -N "$node" >&2

for _ in $(seq 400); do
	if [ "$(sinfo --noheader --partition=low --format=%T 2>/dev/null)" = idle ]; then
		echo "export SLURM_CONF='$SLURM_CONF'"
		exit 0
	fi
	sleep 0.3
done
echo "start.sh: the node is not idle after two minutes" >&2
sinfo >&2 || true
tail -n 20 "$folder"/log/*.log >&2
exit 4
