#!/usr/bin/env bash
# Trains on a Cloud TPU slice: makes it, installs this commit on every worker, starts, follows, and goes on after preemption.
set -euo pipefail
SOON=600 # seconds within which a slice that is still there should not lose its training, three times in a row

usage() {
	cat <<'END'
Trains on a Cloud TPU slice and keeps at it until the run is finished.

  scripts/tpu_pod.sh run NAME --zone=us-west4-a --type=v5litepod-16 --workdir=gs://my-bucket/runs/first \
      --config=configs/gpt2.py:size=124m,arm=kronecker --spot -- --config.data.folder=gs://my-bucket/data
  scripts/tpu_pod.sh run ... --dry_run      # print every command, one a line, and run none
  scripts/tpu_pod.sh log NAME --zone=us-west4-a
  scripts/tpu_pod.sh stop NAME --zone=us-west4-a
  scripts/tpu_pod.sh delete NAME --zone=us-west4-a

run      reuses the slice NAME or makes it, copies this commit to all workers, installs it there, starts train.py on all
         workers under nohup and follows the log of worker 0.  A preempted slice is deleted and made again, and the same
         command goes on from the checkpoints in --workdir.  The same command attaches to a run that is at work.
         Ctrl-C ends the following and not the training.  The slice stays, and costs money, until you delete it.
log      follows the log of worker 0         status   prints the state of the slice
stop     sends SIGTERM to train.py on all workers: it saves a checkpoint and leaves
delete   deletes the slice

flags:
  --zone=ZONE          of the slice; each type exists in some zones only (gcloud compute tpus locations list)
  --project=PROJECT    default: gcloud's own
  --type=TYPE          v5litepod-16 (16 chips on 4 workers), v6e-8, v4-32, ...; for run
  --version=IMAGE      the workers' image; default: by type, v2-alpha-tpuv5-lite, v2-alpha-tpuv6e, v2-alpha-tpuv5 or
                       tpu-ubuntu2204-base
  --spot               cheaper, and may be taken away at any time; goes through a queued resource
  --config=CONFIG      as for train.py; for run
  --workdir=PATH       as for train.py: gs://BUCKET/FOLDER, or the absolute path of a disk that every worker mounts.  Not
                       a worker's own disk, which goes with the slice; for run
  --install=COMMAND    what makes .venv in the folder of the code, on each worker; default: Python 3.12 through uv, with
                       pyproject.toml's [train,tpu,gcs]
  --allow_dirty        send tracked files as they are, although they are not committed; new files stay behind
  --poll=SECONDS       between looks at a slice that is being made; default 30
  --dry_run            print the commands, and what a preemption would add, and run none but git's questions
  -- FLAGS             more flags for train.py, for example -- --config.train.steps=1000

exit code: 0 finished, 143 stopped by `stop`, 2 for bad input and where train.py or gcloud fails.
END
}

fail() {
	echo "error: $*" >&2
	exit 2
}

# Prints a command where nothing may be run, and runs it otherwise.
act() {
	if [[ $dry_run ]]; then
		printf '%q ' "$@" | sed 's/ $//'
		echo
	else
		"$@"
	fi
}

say() {
	if [[ $dry_run ]]; then echo "# $*"; else echo "$*" >&2; fi
}

tpu() { act gcloud compute tpus "$@" --zone="$zone" ${project:+"--project=$project"}; }
on_workers() { tpu tpu-vm ssh "$name" --worker="$1" --command="$2"; }

# The state of the slice (look tpu-vm state) or of the request for it (look queued-resources state.state): CREATING, READY,
# PREEMPTED, ..., or ABSENT.  Anything else that gcloud fails with may pass; what does not ends the script.
look() {
	local out try
	for try in {1..10}; do
		((try == 1)) || sleep "$poll"
		if out=$(tpu "$1" describe "$name" --format="value($2)" 2>&1); then
			tail -n 1 <<<"$out"
			return
		elif grep -q NOT_FOUND <<<"$out"; then
			echo ABSENT
			return
		fi
		say "gcloud could not describe $name: $out"
		if grep -qE 'PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT' <<<"$out"; then break; fi
	done
	fail "gcloud could not describe $name, as it says above"
}

create() {
	if [[ $spot ]]; then
		tpu queued-resources create "$name" --node-id="$name" --accelerator-type="$type" --runtime-version="$version" --spot
	else
		tpu tpu-vm create "$name" --accelerator-type="$type" --version="$version"
	fi
}

delete() {
	if [[ $spot ]]; then
		tpu queued-resources delete "$name" --force --quiet
	else
		tpu tpu-vm delete "$name" --quiet
	fi
}

# Returns when the slice is ready, which may take as long as the zone has no room; `kept`: it was so at the first look.
ensure_ready() {
	local now queued
	kept=1
	while true; do
		now=$(look tpu-vm state)
		case $now in
		READY) return ;;
		ABSENT)
			queued=ABSENT
			if [[ $spot ]]; then queued=$(look queued-resources state.state); fi
			case $queued in
			ABSENT) say "making $name ($type)" && { create || fail "gcloud could not make $name"; } ;;
			FAILED | SUSPENDED) say "the request for $name is $queued; asking again" && delete ;;
			*) say "$name: $queued" && sleep "$poll" ;;
			esac
			;;
		PREEMPTED | TERMINATED | STOPPED | SUSPENDED | FAILED) say "$name is $now; deleting it" && delete ;;
		*) say "$name: $now" && sleep "$poll" ;;
		esac
		kept=
	done
}

# Copies and installs, once for a commit and slice: what is there already stays.  Ends with 70 before it installs, and so
# before anything is started on any worker, if one of them is at work on something else.
prepare() {
	local code=kronecker-$commit
	tpu tpu-vm scp "$archive" "$name:$code.tar.gz" --worker=all &&
		on_workers all "set -e; if ! test -e $code/installed; then rm -rf $code; mkdir $code; tar -xzf $code.tar.gz -C $code; fi; \
$code/scripts/tpu_worker.sh check$(printf ' %q' "$@"); \
if ! test -e $code/installed; then (cd $code && { $install; } && touch installed); fi; ln -sfn $code kronecker"
}

start_training() { on_workers all "kronecker/scripts/tpu_worker.sh start$(printf ' %q' "$@")"; }

follow() { on_workers 0 "kronecker/scripts/tpu_worker.sh follow $1"; }

run() {
	[[ $type ]] || fail "--type is missing; for example --type=v5litepod-16"
	[[ $config ]] || fail "--config is missing; for example --config=configs/gpt2.py:size=124m"
	case $workdir in
	gs://?* | /*) ;;
	'') fail "--workdir is missing; for example --workdir=gs://my-bucket/runs/first" ;;
	*) fail "--workdir=$workdir: a worker's own disk goes with the slice; give gs://BUCKET/FOLDER or a shared absolute path" ;;
	esac
	local tree lines=+1 code began words failures=0
	tree=$(git rev-parse HEAD)
	if [[ -n $(git status --porcelain --untracked-files=no) ]]; then
		[[ $allow_dirty ]] || fail "tracked files have changes that are not committed; commit them, or add --allow_dirty"
		if [[ ! $dry_run ]]; then
			tree=$(git -c user.name=kronecker -c user.email=kronecker@localhost stash create)
			tree=$(git rev-parse "$tree^{tree}") # that of a commit would be another one each time
		fi
	fi
	commit=${tree:0:12}
	local flags=("--config=$config" --config.distributed.enabled=on "--workdir=$workdir" "${more[@]}")
	scratch=$(mktemp -d)
	trap 'rm -rf "$scratch"' EXIT
	archive=$scratch/kronecker-$commit.tar.gz
	act git archive --format=tar.gz --output="$archive" "$tree"
	if [[ $dry_run ]]; then
		say "is there a slice?"
		tpu tpu-vm describe "$name" --format='value(state)'
		say "if there is none"
		create
		say "when it is READY"
		prepare "${flags[@]}"
		start_training "${flags[@]}"
		follow +1
		say "if it is PREEMPTED: this, and then the commands above again, which go on from the checkpoints"
		delete
		return
	fi
	while true; do
		ensure_ready
		if [[ ! $kept ]]; then failures=0; fi
		((failures < 3)) || fail "$words, $failures times in a row; the slice $name is kept"
		say "$name is ready; installing $commit on all workers"
		began=$SECONDS code=0
		{ prepare "${flags[@]}" && start_training "${flags[@]}"; } || code=$?
		if ((code == 70)); then
			fail "$name is at work on another commit or with other flags (see above); end it with: scripts/tpu_pod.sh stop $name --zone=$zone${project:+ --project=$project}"
		elif ((code)); then
			words="could not install or start"
			failures=$((failures + 1))
		else
			follow "$lines" || code=$?
			lines=20
			case $code in
			0) say "the run is finished; scripts/tpu_pod.sh delete $name --zone=$zone ends what the slice costs" && return ;;
			65 | 66) fail "train.py failed on $name (see the log above); the slice is kept" ;;
			67) say "train.py was stopped; the same command goes on" && return 143 ;;
			68) words="train.py was ended by a signal, perhaps as it failed on another worker (see the log of each)" ;;
			69) words="train.py ended without a word" ;;
			*) words="lost sight of train.py (code $code)" ;; # it may be at work: attach again
			esac
			if ((code != 68 && code != 69 || SECONDS - began >= SOON)); then failures=0; else failures=$((failures + 1)); fi
		fi
		say "$words; looking at the slice and going on"
		sleep "$poll"
	done
}

cd "$(dirname "$0")/.."
command=${1:---help}
case $command in
-h | --help)
	usage
	exit 0
	;;
run | log | status | stop | delete) shift ;;
*) fail "$command: the commands are run, log, status, stop and delete; see --help" ;;
esac
[[ ${1:-} && ${1:-} != -* ]] || fail "$command needs the name of the slice, for example: scripts/tpu_pod.sh $command my-slice"
name=$1
shift
[[ $name =~ ^[a-z][a-z0-9-]*$ ]] || fail "$name: a slice's name has lower-case letters, digits and hyphens"
zone='' project='' type='' version='' spot='' config='' workdir='' allow_dirty='' dry_run='' poll=30 more=()
install='python3 -m pip install --quiet --target=.uv uv && .uv/bin/uv venv --quiet --python=3.12 .venv'
install+=' && .uv/bin/uv pip install --quiet --python=.venv/bin/python --editable ".[train,tpu,gcs]"'
while (($#)); do
	case $1 in
	--zone=?*) zone=${1#*=} ;;
	--project=?*) project=${1#*=} ;;
	--type=?*) type=${1#*=} ;;
	--version=?*) version=${1#*=} ;;
	--config=?*) config=${1#*=} ;;
	--workdir=?*) workdir=${1#*=} ;;
	--install=?*) install=${1#*=} ;;
	--poll=?*) poll=${1#*=} ;;
	--spot) spot=1 ;;
	--allow_dirty) allow_dirty=1 ;;
	--dry_run) dry_run=1 ;;
	--)
		shift
		more=("$@")
		break
		;;
	*) fail "$1: not known, or without a value; see --help (flags of train.py stand behind --)" ;;
	esac
	shift
done
[[ $zone ]] || fail "--zone is missing; for example --zone=us-west4-a"
case $type in
v5litepod-*) version=${version:-v2-alpha-tpuv5-lite} ;;
v6e-*) version=${version:-v2-alpha-tpuv6e} ;;
v5p-*) version=${version:-v2-alpha-tpuv5} ;;
*) version=${version:-tpu-ubuntu2204-base} ;;
esac
[[ $dry_run ]] || command -v gcloud >/dev/null || fail "gcloud is not on PATH; install the Google Cloud CLI, see docs/pods.md"
case $command in
run) run ;;
log) follow +1 ;;
status) tpu tpu-vm describe "$name" ;;
stop) on_workers all "kronecker/scripts/tpu_worker.sh stop" ;;
delete) delete ;;
esac
