#!/bin/sh
# Reproduce models/shortlist-rerank-L-2, L-4, L-6 (and L-12): mine, tune, export. About three hours on two cores.
#   SHORTLIST_DATA=folder/of/collections sh bench/train/shortlist-rerank.sh [WORK]
# Needs: pip install torch==2.13.0 && pip install -e '.[eval,plot,train]'. Stop it and start it again: it goes on.
set -eu
work=${1:-build/shortlist-rerank}
data=${SHORTLIST_DATA:-../shared/data}
mkdir -p "$work"
shortlist models fetch shortlist-embed

# Questions of train splits; hard collections in full, large or easy ones in part.
mine() { out=$1; shift; shortlist train mine "$@" -o "$work/$out" --indexes "$work/indexes"; }
[ -d "$work/pseudo" ] || python bench/train/pseudo.py "$work/pseudo"
mine groups "$data/tydi-ko" "$data/dureader-demo" "$data/tydi-sw" "$data/tydi-en" "$data/scifact" "$data/arcd" \
  "$data/squad-sent:train:6000" "$data/cmrc2018:train:3000" "$data/afriqa" "$data/facqa:train:1500" "$data/faquad" \
  "$data/cmrc2017-user:train:800" "$data/amqa:train:1000" "$data/iapp-thai:train:2500" "$data/pubmedqa" \
  "$data/jaquad:train:4000" "$work/pseudo/ntrex-1"
# Development splits that nothing is reported on: for watching, the fusion weight and the temperature.
mine dev "$data/cmrc2018:dev:150" "$data/iapp-thai:dev:150" "$data/afriqa:dev:150" "$data/amqa:dev:150" "$data/heq:dev:150" \
  "$data/norquad:dev:150" "$data/pquad:dev:150" "$data/csl-title:dev:150"

# L-2, L-4 and L-6 are exits of one network.
shortlist train tune "$work/groups" -o "$work/run6" --kind reranker --watch "$work/dev" \
  --set exits=2,4,6 --set negatives=4 --set batch=10 --set windows=64,64,96,128 --set epochs=0.6 --set rate=1e-4
for size in L-2 L-4 L-6; do
  shortlist train export "$work/run6/$size" -o "models/shortlist-rerank-$size" --to body --judged "$work/dev" \
    --card bench/train/shortlist-rerank.json > "$work/$size.json"
done
