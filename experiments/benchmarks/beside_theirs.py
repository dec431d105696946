"""PyTorch's side of `beside_torch.py`, which starts it: transformers, and peft.

It is given what helps it: fused AdamW, scaled-dot-product attention, logits of
answers alone, no mask where nothing is padded, and of rows of different lengths
no more columns than the longest of the microbatch.
"""

import functools
import os
from typing import Any

import beside_cases
import numpy as np
import torch
import transformers

_SIZE = 2048
_TARGETS = [
  *(f'{x}_proj' for x in 'qkvo'),
  *(f'{x}_proj' for x in ('gate', 'up', 'down')),
]


class Bench:
  """A case with its model."""

  def __init__(
    self, case: beside_cases.Case, stream: np.ndarray, job: dict[str, Any]
  ) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    self.case, self.job = case, job
    self.made = beside_cases.batch(case, stream)
    self.model = transformers.AutoModelForCausalLM.from_pretrained(
      job['model'], dtype=torch.float32
    )
    self.model.eval()

  def figures(self, call) -> beside_cases.Figures:
    a = torch.randn(_SIZE, _SIZE)
    made = beside_cases.figures(call, lambda: a @ a, _SIZE, self.job)
    versions = f'torch {torch.__version__}, {transformers.__version__}'
    return made | {'version': versions}

  def read(self) -> beside_cases.Figures:
    """Prompts with their cache, and the logits after each."""
    prompts = _longs(self.made['prompts'])

    @torch.no_grad()
    def call() -> None:
      self.model(prompts, logits_to_keep=1, use_cache=True)

    return self.figures(call)

  def decode(self) -> beside_cases.Figures:
    """`generate`, greedy, or with several samples of each prompt at random."""
    made = self.figures(lambda: self._generate(self.case.response))
    shorter = functools.partial(self._generate, beside_cases.SHORT)
    shorter()
    short = beside_cases.repeated(shorter, self.job['repeats'])
    return made | {'short_seconds': short}

  def _generate(self, response: int) -> None:
    case, prompts = self.case, _longs(self.made['prompts'])
    settings: dict[str, Any] = {'do_sample': case.samples > 1}
    if case.samples > 1:
      settings |= {'top_k': 0, 'top_p': 1.0, 'temperature': 1.0}
    if case.theirs == 'static':
      settings |= {'cache_implementation': 'static', 'disable_compile': True}
    self.model.generation_config = transformers.GenerationConfig(
      eos_token_id=None,  # No token ends an answer.
      pad_token_id=0,
      max_new_tokens=response,
      num_return_sequences=case.samples,
      **settings,
    )
    with torch.inference_mode():
      made = self.model.generate(
        prompts, attention_mask=torch.ones_like(prompts)
      )
    rows = case.prompts * case.samples
    assert made.shape == (rows, case.prompt + response), made.shape

  def update(self) -> beside_cases.Figures:
    """AdamW on gradients summed over microbatches."""
    if self.case.theirs == 'lora':
      self.model = _with_adapters(self.model)
    self.model.train()
    if self.case.theirs == 'checkpointing':
      self.model.gradient_checkpointing_enable()
    trained = [x for x in self.model.parameters() if x.requires_grad]
    adamw = torch.optim.AdamW(
      trained, lr=beside_cases.LEARNING_RATE, fused=True
    )
    losses = []

    def call() -> None:
      adamw.zero_grad()
      total = 0.0
      for start in range(0, self.case.prompts, self.case.micro):
        loss = self._loss(slice(start, start + self.case.micro))
        loss.backward()
        total += float(loss.detach())
      torch.nn.utils.clip_grad_norm_(trained, beside_cases.MAX_GRAD_NORM)
      adamw.step()
      losses.append(total)

    made = self.figures(call)
    return made | {'loss': losses[0]}

  def _loss(self, prompts: slice) -> torch.Tensor:
    """A microbatch's share of -mean(A log p), A = 1 in supervised training."""
    made, case = self.made, self.case
    tokens = made['prompts'][prompts].repeat(case.samples, axis=0)
    tokens_mask = made['prompt_mask'][prompts].repeat(case.samples, axis=0)
    answers = made['answers'][prompts].reshape(-1, case.response)
    mask = made['mask'][prompts].reshape(-1, case.response)
    left, right = int(tokens_mask.sum(-1).max()), int(mask.sum(-1).max())
    answers, mask = answers[:, :right], mask[:, :right]
    rows = np.concatenate([tokens[:, -left:], answers], axis=1)
    seen = np.concatenate([tokens_mask[:, -left:], mask], axis=1)
    logits = self.model(
      _longs(rows),
      attention_mask=None if seen.all() else _longs(seen),
      logits_to_keep=right + 1,
      use_cache=False,
    ).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
      logits.flatten(0, 1), _longs(answers).flatten(), reduction='none'
    )
    weights = mask / made['mask'].sum()
    if case.part == 'rl':
      weights = weights * made['advantages'][prompts].reshape(-1, 1)
    return (losses * torch.tensor(weights.ravel(), dtype=torch.float32)).sum()

  def long(self) -> beside_cases.Figures:
    """Log-probabilities of the first row's answer, in a file."""
    made, kept = self.made, {}
    prompt = made['prompts'][0][made['prompt_mask'][0]]
    answer = made['answers'][0, 0][made['mask'][0, 0]]
    row, targets = _longs(np.concatenate([prompt, answer])), _longs(answer)

    @torch.no_grad()
    def call() -> None:
      keep = len(answer) + 1
      out = self.model(row[None], logits_to_keep=keep, use_cache=False)
      logits = out.logits[0, :-1]
      chosen = logits.gather(1, targets[:, None])[:, 0]
      kept['logprobs'] = (chosen - logits.logsumexp(-1)).numpy()

    figures = self.figures(call)
    np.savez(self.job['logprobs'], **kept)
    return figures


def _longs(array: np.ndarray) -> torch.Tensor:
  return torch.tensor(array, dtype=torch.long)


def _with_adapters(model: Any) -> Any:
  import peft  # Not every environment with PyTorch has it.

  return peft.get_peft_model(
    model,
    peft.LoraConfig(
      r=beside_cases.LORA_RANK,
      lora_alpha=beside_cases.LORA_ALPHA,
      target_modules=_TARGETS,
    ),
  )


def measure(
  case: beside_cases.Case, stream: np.ndarray, job: dict[str, Any]
) -> beside_cases.Figures:
  """The figures of a case."""
  bench = Bench(case, stream, job)
  parts = {
    'read': bench.read,
    'decode': bench.decode,
    'sft': bench.update,
    'rl': bench.update,
    'long': bench.long,
  }
  return parts[case.part]()


if __name__ == '__main__':
  beside_cases.run(measure)
