#!/usr/bin/env bash
# What scripts/tpu_pod.sh runs on each worker of a slice, from the folder of the code that it has copied there.
#
#   tpu_worker.sh check FLAGS    ends with 70 if train.py is at work from other code or with other flags
#   tpu_worker.sh start FLAGS    the same, and starts train.py with FLAGS in the background unless it is at work
#   tpu_worker.sh follow LINES   shows the last LINES of its log (+1: all) and what comes, until it ends
#   tpu_worker.sh stop           lets it save and leave
#
# `follow` ends with 0 if train.py did, and otherwise with a code that neither ssh nor gcloud has for its own failures:
# 65 failed, 66 bad input, 67 stopped by `stop`, 68 ended by a signal, 69 died without a word.
set -euo pipefail
code=$(cd "$(dirname "$0")/.." && pwd -P)
run=$HOME/kronecker-run
mkdir -p "$run"

at_work() { [[ -e $run/supervisor ]] && grep -qs tpu_worker "/proc/$(<"$run/supervisor")/cmdline"; }

wanted=$(printf '%q ' "$code" "${@:2}")

refuse_other_work() {
	local had
	had=$(cat "$run/command" 2>/dev/null || true)
	if at_work && [[ $wanted != "$had" ]]; then
		printf 'error: at work on %s:     %s\nand this would be: %s\n' "$(hostname)" "$had" "$wanted" >&2
		exit 70
	fi
}

case ${1:-} in
check) refuse_other_work ;;
start)
	refuse_other_work
	shift
	at_work && { echo "already at work on $(hostname)"; exit; }
	rm -f "$run"/{pid,exit,stopped,supervisor}
	echo "$wanted" >"$run/command"
	nohup "$code/scripts/tpu_worker.sh" supervise "$@" >>"$run/log" 2>&1 </dev/null &
	until [[ -e $run/pid ]]; do sleep 0.1; done
	echo "started on $(hostname)"
	;;
supervise)
	shift
	echo $$ >"$run/supervisor"
	cd "$code"
	.venv/bin/python train.py "$@" &
	echo $! >"$run/pid"
	ended=0
	wait $! || ended=$?
	echo "$ended" >"$run/exit"
	;;
follow)
	if at_work; then
		tail -n "${2:-20}" -F --pid="$(<"$run/supervisor")" "$run/log"
	else
		tail -n "${2:-20}" "$run/log"
	fi
	[[ -s $run/exit ]] || exit 69
	ended=$(<"$run/exit")
	case $ended in
	0) exit 0 ;;
	1 | 2) exit $((64 + ended)) ;;
	*) if [[ -e $run/stopped ]]; then exit 67; else exit 68; fi ;;
	esac
	;;
stop)
	at_work || { echo "nothing is at work on $(hostname)" >&2; exit; }
	touch "$run/stopped"
	kill "$(<"$run/pid")"
	;;
*)
	echo "error: ${1:-nothing}: the commands are check, start, follow and stop" >&2
	exit 2
	;;
esac
