#!/usr/bin/env bash
# Train a model from scratch and compare its answers before and after. `make demo` runs this script.
# Set ENGINE=docker or ENGINE=process to choose where; by default, it uses what is available.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=demo-run
here=examples/demo
bin=${VENV:-.venv}/bin
engine=${ENGINE:-auto}
run=$out/runs/$(date +%Y%m%d-%H%M%S)
questions=(
    "What does os.path.join do?"
    "What does json.dumps do?"
    "What does textwrap.dedent do?"
    "What is fractions.Fraction?"
    "What does bisect.bisect_right do?"
)

step() { printf '\n== %s\n' "$*"; }

# The host has no torch, so programs that need it run in the same environment as training.
inside() { "$bin/aligntune-run" exec --backend trl --engine "$engine" --yes -- python "$@"; }

step "Questions and answers from the docstrings of this Python's standard library"
"$bin/python" $here/make_data.py $out/data

step "A small Llama with random weights, and a tokenizer for that text"
inside $here/make_model.py $out/data/train.jsonl $out/untrained

step "What it answers before training"
inside $here/answer.py $out/untrained $out/data "${questions[@]}"

step "Training"
"$bin/aligntune-run" --algo sft --model $out/untrained --dataset $out/data/train.jsonl \
    --backend auto -c examples/sft.yaml --engine "$engine" --output "$run" --yes

step "The loss, in nats per token"
"$bin/python" $here/losses.py "$run"
echo "The training loss falls as the model memorizes the answers. The held-out loss falls only while it"
echo "learns the style of such sentences: it cannot guess what an unknown function does."

step "What it answers after training"
inside $here/answer.py "$run/model" $out/data "${questions[@]}"

step "$((SECONDS / 60)) min $((SECONDS % 60)) s; the model is in $run/model"
