#!/usr/bin/env bash
# Train under PBS Pro, OpenPBS or Torque: qsub launch/pbs.sh, from the folder of the clone.
#   qsub -v ARGS="--preset best" launch/pbs.sh                              options of distnet.train
#   qsub -v ARGS="--preset best",RUN=runs/4711.server launch/pbs.sh         go on with what job 4711 left unfinished
# Change the lines below rather than give them to qsub: a job whose time is over submits this file once more.
#PBS -N distnet
#PBS -l select=1:ncpus=4:mpiprocs=4
# Torque takes this line for the one above: PBS -l nodes=1:ppn=4
#PBS -l walltime=00:30:00
#PBS -r y
#PBS -j oe
set -euo pipefail
cd "$PBS_O_WORKDIR"

python=${PYTHON:-.venv/bin/python} # its mpi4py has to load the MPI of this cluster, see launch/README.md
run=${RUN:-runs/$PBS_JOBID}
# Before bash 4.4, which clusters still have, an array without a word is an unbound variable unless asked for with +.
read -ra arguments <<<"${ARGS:-}"

# The file has a line a rank, each with its host.
ranks=$(wc -l <"$PBS_NODEFILE")
hosts=$(awk '!ranks[$1]++ {names[++n] = $1}
  END {for (i = 1; i <= n; i++) printf "%s%s:%d", (i > 1 ? "," : ""), names[i], ranks[names[i]]}' "$PBS_NODEFILE")

export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 # a BLAS thread a rank: ranks are for the other cores
# A rank stays on its core, if the job has whole nodes. Beside others, all would be on the same first cores.
[ "${hosts##*:}" != "$(getconf _NPROCESSORS_ONLN)" ] || export HYDRA_BINDING=core

# PBS says nothing before the time is over, so `timeout` does, and hands on the SIGTERM of a job that is deleted.
limit=${PBS_WALLTIME:-$(qstat -f "$PBS_JOBID" | awk -F'[ =:]+' '/Resource_List.walltime/ {print $3 * 3600 + $4 * 60 + $5}')}
deleted=no
trap 'deleted=yes' TERM
status=0
timeout --preserve-status --signal=USR1 $((limit > 240 ? limit - 120 : limit / 2)) \
  "$python" -m distnet.supervise -n "$ranks" --hosts "$hosts" -- --checkpoint-dir "$run" --resume \
  ${arguments[@]+"${arguments[@]}"} ||
  status=$?
if [ "$status" = 75 ] && [ $deleted = no ]; then # saved, to come again
  exec qsub -v "PYTHON=$python,RUN=$run,ARGS=${ARGS:-}" launch/pbs.sh
fi
exit "$status"
