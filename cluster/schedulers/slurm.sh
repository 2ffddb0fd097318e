# For one_node.sbatch and several_nodes.sbatch, beside which it lies: what each code of mapjob means for a Slurm job.
#
#   0     the job is COMPLETED: what depends on it (afterok) starts
#   4     resumable: the same job again, under the same id, after a growing wait; at most ATTEMPTS times
#   > 128 killed by a signal: as 4
#   5     committed, and a check failed; 1-3: a fault, a wrong run file, a bad corpus. The job is FAILED, --mail-type
#         tells a person, nothing that depends on it starts, and nothing runs it again

# follow PID: wait for mapjob, pass SIGTERM on to it (the time limit is near, or the node is taken), and end as it did.
follow() {
    local code signals=0 seen restarts=${SLURM_RESTART_COUNT:-0}
    trap 'signals=$((signals + 1)); kill -TERM "$1" 2>/dev/null' TERM
    while
        seen=$signals
        wait "$1"
        code=$?
        ((code > 128 && seen != signals)) # the wait was interrupted, and mapjob is still ending
    do :; done
    if ((code == 4 || (code > 128 && code != 130))) && ((restarts < ${ATTEMPTS:-6} - 1)); then
        echo "mapjob ended with code $code: again, restart $((restarts + 1))"
        ((signals)) || sleep $((${WAIT_S:-60} * 2 ** restarts))
        scontrol requeue "$SLURM_JOB_ID" && sleep "${REQUEUE_S:-60}" # Slurm ends this job here
    fi
    echo "mapjob ended with code $code"
    exit "$code"
}
