#!/usr/bin/env bash
# End the Slurm that start.sh began in FOLDER, and its jobs; the files stay, to be looked at.
set -uo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

[ $# -eq 1 ] || { echo "usage: stop.sh FOLDER" >&2; exit 2; }
export SLURM_CONF="$1/slurm.conf"

# Wait until the process in a pid file has ended; kill it after five seconds.
end() {
	local pid
	pid="$(cat "$1" 2>/dev/null)" || return 0
	kill "$pid" 2>/dev/null || return 0
	for _ in $(seq 50); do
		kill -0 "$pid" 2>/dev/null || return 0
		sleep 0.1
	done
	kill -9 "$pid" 2>/dev/null
}

if [ -f "$1/slurmctld.pid" ]; then
	timeout 5 scancel --user="$(id -un)" >/dev/null 2>&1
	for _ in $(seq 30); do
		[ -n "$(timeout 5 squeue --noheader 2>/dev/null)" ] || break
		sleep 0.5
	done
fi
end "$1/slurmd.pid"
end "$1/slurmctld.pid"
end "$1/munge/pid"
exit 0
