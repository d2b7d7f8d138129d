#!/usr/bin/env bash
# Train under PBS Pro, OpenPBS or Torque: qsub launch/pbs.sh, from the folder of the clone.
#   qsub -v ARGS="--preset best" launch/pbs.sh                              options of distnet.train
#   qsub -v ARGS="--preset best",RUN=runs/4711.server launch/pbs.sh         resume job 4711
# Edit the lines below instead of passing them to qsub: a job whose time is over resubmits this file.
#PBS -N distnet
#PBS -l select=1:ncpus=4:mpiprocs=4
# For Torque, replace the line above by: PBS -l nodes=1:ppn=4
#PBS -l walltime=00:30:00
#PBS -r y
#PBS -j oe
set -euo pipefail
cd "$PBS_O_WORKDIR"

python=${PYTHON:-.venv/bin/python} # its mpi4py must load the MPI of this cluster, see launch/README.md
run=${RUN:-runs/$PBS_JOBID}
# Before bash 4.4, which clusters still have, an empty array counts as an unbound variable; hence the + below.
read -ra arguments <<<"${ARGS:-}"

# The file has one line per rank, with its host.
ranks=$(wc -l <"$PBS_NODEFILE")
hosts=$(awk '!ranks[$1]++ {names[++n] = $1}
  END {for (i = 1; i <= n; i++) printf "%s%s:%d", (i > 1 ? "," : ""), names[i], ranks[names[i]]}' "$PBS_NODEFILE")

export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 # one BLAS thread per rank: ranks use the other cores
# Bind ranks to cores only if the job has whole nodes. Otherwise, two jobs would share the first cores.
[ "${hosts##*:}" != "$(getconf _NPROCESSORS_ONLN)" ] || export HYDRA_BINDING=core

# PBS sends no signal before the time limit, so `timeout` does. It forwards the SIGTERM of a deleted job.
limit=${PBS_WALLTIME:-$(qstat -f "$PBS_JOBID" | awk -F'[ =:]+' '/Resource_List.walltime/ {print $3 * 3600 + $4 * 60 + $5}')}
deleted=no
trap 'deleted=yes' TERM
status=0
timeout --preserve-status --signal=USR1 $((limit > 240 ? limit - 120 : limit / 2)) \
  "$python" -m distnet.supervise -n "$ranks" --hosts "$hosts" -- --checkpoint-dir "$run" --resume \
  ${arguments[@]+"${arguments[@]}"} ||
  status=$?
if [ "$status" = 75 ] && [ $deleted = no ]; then # checkpoint written
  exec qsub -v "PYTHON=$python,RUN=$run,ARGS=${ARGS:-}" launch/pbs.sh
fi
exit "$status"
