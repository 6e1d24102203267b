#!/bin/sh
# spark-submit.sh [spark-submit options] jobs/NAME.py [job options]
# Runs a job with the environment beside this file, from any directory; local[*] unless --master is given.
here=$(dirname -- "$(readlink -f -- "$0")")
python=$here/.venv/bin/python
if ! [ -x "$python" ]; then
    echo "spark-submit.sh: there is no $here/.venv: run \`make setup\` first" >&2
    exit 2
fi
# -P: a file in the working directory must not hide a module of ours.
exec "$python" -P -m medspark.submit "$@"
