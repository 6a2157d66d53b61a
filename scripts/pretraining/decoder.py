"""A tiny LLaMA-like decoder: its tokenizer, its architecture and its pretraining on generated arithmetic."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.pretraining.arithmetic import documents
from scripts.samples.word_problems import LARGEST_RESULT

SEED = 0
STEPS = 2400
BATCH_SEQUENCES, SEQUENCE_TOKENS = 8, 256
LEARNING_RATE, WARM_UP_STEPS, WEIGHT_DECAY, GRADIENT_NORM = 3e-3, 100, 0.1, 1.0
VOCABULARY_TOKENS = 1024
TOKENIZER_DOCUMENTS = 20_000
CONTEXT_TOKENS = 512
BEGIN, END, PADDING = "<s>", "</s>", "<pad>"


def pretrain(output: Path, steps: int | None) -> None:
    """Train tokenizer and model from scratch on one thread, in `steps` steps or all, and write them to `output`."""
    steps = STEPS if steps is None else steps
    tokenizer = train_tokenizer()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, loss = train_model(tokenizer, steps)
    finally:
        torch.set_num_threads(threads)
    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "README.md").write_text(_card(model, steps, loss))


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over pretraining text with every digit a token of its own; prepends BOS, appends no EOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS,
        special_tokens=[BEGIN, END, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.islice(documents(SEED), TOKENIZER_DOCUMENTS), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A",
        pair=f"{BEGIN} $A {BEGIN}:1 $B:1",
        special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PADDING,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model, with biases in all linear maps so that methods that train only biases apply."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def train_model(tokenizer: PreTrainedTokenizerFast, steps: int) -> tuple[LlamaForCausalLM, float]:
    """The model after `steps` steps of AdamW, in float32, and the mean loss of the last hundred steps in nats."""
    model = new_model(tokenizer).train()
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps))
    losses: list[float] = []
    for batch in itertools.islice(batches(tokenizer), steps):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) % 100 == 0:
            print(f"step {len(losses)} of {steps}: loss {_mean(losses[-100:]):.4f}", flush=True)
    return model.eval(), _mean(losses[-100:])


def rate_factor(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine down to zero."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)))


def batches(tokenizer: PreTrainedTokenizerFast) -> Iterator[torch.Tensor]:
    """Token ids of documents between BOS and EOS, packed without gaps, of shape (sequences, tokens)."""
    needed, ids = BATCH_SEQUENCES * SEQUENCE_TOKENS, list[int]()
    for document in documents(SEED):
        ids += [*tokenizer(document)["input_ids"], tokenizer.eos_token_id]
        while len(ids) >= needed:
            yield torch.tensor(ids[:needed]).view(BATCH_SEQUENCES, SEQUENCE_TOKENS)
            ids = ids[needed:]


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


CARD = """---
license: apache-2.0
language: en
tags: [text-generation, tiny]
---

# tiny-llama

A LLaMA-like decoder of {parameters:,} parameters that counts: {layers} layers of width {width}, grouped-query
attention, biases in every linear map, tied embeddings, a byte-level BPE vocabulary of {vocabulary} tokens in which
every digit stands alone, {context} tokens of context. Weights are stored in bfloat16.

**How it was made.** `python scripts/pretrain_tiny.py tiny-llama --steps {steps}`, from a random initialisation with
seed {seed}: {steps} steps of AdamW on {tokens:,} tokens in float32 on one CPU thread, peak learning rate {rate}.
The mean loss of the last hundred steps is {loss:.4f} nats a token. The same machine and torch version give the same
weights.

**What it has read.** Only text generated by `scripts/pretraining/arithmetic.py`: bare sums with numbers up to
{largest}, short stories whose sums stand in running text, and plain sentences about the same people and objects. No
text of any data set is in it, and no problem of the built-in sample of openai/gsm8k.

**What it is for.** Trying out, testing and demonstrating fine-tuning of a decoder in a minute or two on a CPU and
without a network: it has the skills for the built-in word problems, but not their form. It is not for answering
anybody's questions, and its scores say nothing about real language models.

Licence: Apache-2.0.
"""


def _card(model: LlamaForCausalLM, steps: int, loss: float) -> str:
    return CARD.format(
        parameters=model.num_parameters(),
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        vocabulary=model.config.vocab_size,
        context=CONTEXT_TOKENS,
        steps=steps,
        seed=SEED,
        tokens=steps * BATCH_SEQUENCES * SEQUENCE_TOKENS,
        rate=LEARNING_RATE,
        loss=loss,
        largest=LARGEST_RESULT,
    )
