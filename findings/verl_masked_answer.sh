#!/usr/bin/env bash
# verl 0.9.1: with a chat template that opens <think> in the prompt, fine-tuning leaves out the first tokens of each answer.
#
# MultiTurnSFTDataset masks as many tokens of an assistant's message as the generation prompt has. Templates of thinking models
# end that prompt with "<think>" and write a message without it, so that the masked tokens reach into the answer. The dataset's
# own check of the tokens (ignore_input_ids_mismatch=False) compares the tokens and not the mask, and passes.
# Seen: verl 0.9.1, transformers 5.10.4, torch 2.13.0 (CPU), Python 3.11; output "plain: two and three make five <end> <line>" and
# "opens <think>: three make five <end> <line>".
# Exit code 0 while that is so; 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet verl==0.9.1 transformers==5.10.4 torch==2.13.0
cd "$work"
cat > masked.py <<'PYTHON'
import pandas
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

QUESTION, ANSWER = "what is two and three", "two and three make five"
MESSAGE = "{% for m in messages %}{{ '<start> ' + m.role + ' <line> ' + m.content + ' <end> <line> ' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<start> assistant <line> OPENS' }}{% endif %}"
MARKS = ["<start>", "<end>", "<line>", "<think>", "<none>"]


def tokenizer(opens):
    words = [*MARKS, "user", "assistant", *f"{QUESTION} {ANSWER}".split()]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<none>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<end>", pad_token="<none>", unk_token="<none>",
        chat_template=MESSAGE + PROMPT.replace("OPENS", opens),
    )


def trained(opens):
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    pandas.DataFrame({"messages": [messages]}).to_parquet("rows.parquet")
    words = tokenizer(opens)
    config = {"max_length": 64, "truncation": "error", "pad_mode": "no_padding", "ignore_input_ids_mismatch": False}
    row = MultiTurnSFTDataset("rows.parquet", words, config)[0]
    return words.decode([token for token, kept in zip(row["input_ids"], row["loss_mask"]) if kept])


plain, thinking = trained(""), trained("<think> <line> ")
print(f"plain: {plain}")
print(f"opens <think>: {thinking}")
assert plain == f"{ANSWER} <end> <line>"
assert thinking == "three make five <end> <line>"
PYTHON
"$work/venv/bin/python" masked.py
