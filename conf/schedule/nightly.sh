#!/bin/sh
# nightly.sh [options of reprocess]: the nightly job for a scheduler that sends what is printed by mail, as cron does.
# Prints nothing if all is well. Code 3, Spark failed or another run holds the warehouse, is tried again: after
# MEDSPARK_PAUSE seconds (1200), MEDSPARK_TRIES times in all (3). Codes 1 and 2 would come out the same.
here=$(dirname -- "$(readlink -f -- "$0")")
log=$(mktemp) || exit 2
trap 'rm -f -- "$log"' EXIT

try=1
while
    "$here/../../spark-submit.sh" jobs/reprocess.py "$@" >"$log" 2>&1
    code=$?
    [ "$code" -eq 3 ] && [ "$try" -lt "${MEDSPARK_TRIES:-3}" ]
do
    try=$((try + 1))
    sleep "${MEDSPARK_PAUSE:-1200}"
done

case $code in
    0) exit 0 ;;
    1) echo 'medspark: done, but not acceptable: look at the report and the quarantine' ;;
    2) echo 'medspark: nothing done: the configuration or the environment is wrong' ;;
    3) echo "medspark: failed in $try tries, the next run will continue" ;;
    *) echo "medspark: ended with code $code, the next run will continue" ;;
esac
cat -- "$log"
exit "$code"
