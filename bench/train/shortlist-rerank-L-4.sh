#!/bin/sh
# Reproduce models/shortlist-rerank-L-4: mine negatives, train, publish. Some two hours on two cores.
#   SHORTLIST_DATA=folder/of/collections sh bench/train/shortlist-rerank-L-4.sh [WORK]
# Needs: pip install torch==2.13.0 && pip install -e '.[eval,oracle]' datasets accelerate
set -eu
work=${1:-build/shortlist-rerank-L-4}
mkdir -p "$work"
shortlist models fetch shortlist-embed
encoder=$(python -c "from shortlist import models; print(models.resolve('shortlist-embed'))")
[ -f "$work/groups.jsonl" ] || python bench/train/groups.py "$work/groups.jsonl"
[ -d "$work/final" ] || python bench/train/rerank.py "$encoder" "$work/groups.jsonl" "$work" --layers 4
python bench/train/publish.py "$work/final" models/shortlist-rerank-L-4
