#!/usr/bin/env bash
# One night, from cron or by hand: nightly.sh RUN_FILE [COMMAND...]
#
# Runs `mapjob run RUN_FILE`, again while it ends as resumable, and COMMAND (a training, say) once it is promoted. What it
# prints goes to a log per night; what a person has to know goes to stderr, which cron mails. It ends with mapjob's code:
#
#   0     committed and promoted: COMMAND starts
#   4     resumable: the same command again after a growing wait, at most ATTEMPTS times
#   > 128 killed by a signal (out of memory, a reboot): as 4, but for 130, which is Ctrl-C
#   5     committed, and a check failed: a person looks at it; not run again, COMMAND does not start
#   1-3   a fault, a wrong run file, a bad corpus: a person looks at it; not run again
set -uo pipefail

run_file=${1:?usage: nightly.sh RUN_FILE [COMMAND...]}
shift
attempts=${ATTEMPTS:-6} wait_s=${WAIT_S:-120} longest_wait_s=${LONGEST_WAIT_S:-3600}
logs=${LOGS:-$HOME/mapjob-logs} keep_days=${KEEP_DAYS:-30}

mkdir -p "$logs" || exit 1
exec 9>"$logs/lock" || exit 1
if ! flock --nonblock 9; then
    echo "mapjob: last night's run is still going on; tonight's does not start" >&2
    exit 0
fi
find "$logs" -name 'night-*.log' -mtime "+$keep_days" -delete
log=$logs/night-$(date +%Y-%m-%d).log

tell() {
    echo "mapjob: $1 ($run_file)" | tee -a "$log" >&2
    tail -n 20 "$log" >&2
}

for ((attempt = 1; ; attempt++)); do
    echo "$(date --iso-8601=seconds) attempt $attempt of $attempts" >>"$log"
    mapjob run "$run_file" >>"$log" 2>&1 9>&-
    code=$?
    case $code in
        0) break ;;
        5) tell "committed, not promoted: a check failed; \`mapjob status\` names it, \`mapjob promote\` overrules it" ;;
        2) tell "the command or the run file is wrong: it will fail every night until it is changed" ;;
        3) tell "the corpus was rejected: it will be every night until it is changed" ;;
        130) tell "interrupted" ;;
        *)
            if ((code == 4 || code > 128)); then
                if ((attempt < attempts)); then
                    sleep "$wait_s" 9>&-
                    wait_s=$((wait_s * 2 < longest_wait_s ? wait_s * 2 : longest_wait_s))
                    continue
                fi
                tell "still not complete after $attempts attempts; the next night resumes"
            else
                tell "a fault of mapjob, code $code: please report it"
            fi
            ;;
    esac
    exit "$code"
done
if (($#)); then
    "$@" >>"$log" 2>&1 9>&- || { tell "promoted, but '$*' failed"; exit 1; }
fi
