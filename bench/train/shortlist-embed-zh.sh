#!/bin/sh
# Reproduce the tuned encoder of bench/results/embed-zh.md and its tables: mine, tune, evaluate. Some 20 minutes on a free core.
#   SHORTLIST_DATA=folder/of/collections sh bench/train/shortlist-embed-zh.sh [WORK]
# Needs: pip install -e '.[eval,train]'. What was done is not done again, and a stopped run goes on from its last checkpoint.
set -eu
here=$(dirname "$0")
data=${SHORTLIST_DATA:-$here/../../../shared/data}
work=${1:-build/shortlist-embed-zh}
mkdir -p "$work"
shortlist models fetch shortlist-embed
shortlist train mine "$data/dureader-demo" "$data/cmrc2017-user:train:300" "$data/cmrc2018:train:560" -o "$work/groups"
out=$work/shortlist-embed-zh
[ -d "$out" ] || OMP_NUM_THREADS=1 shortlist train tune "$work/groups" -o "$out" --kind encoder --start shortlist-embed \
  --set batch=16 --set negatives=1 --set rate=2e-5 --set epochs=1 --set max_tokens=256 --set average=0.5 --set save_steps=15
SHORTLIST_DATA=$data python "$here/encoder_eval.py" shortlist-embed "$out" --work "$work/vectors" | tee "$work/tables.md"
