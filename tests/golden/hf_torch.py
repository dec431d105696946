"""What the Hugging Face PyTorch model answers; imports torch when called."""

import numpy as np
import transformers

from tests.golden import hf_cases


def load(folder, dtype='float32', **options):
  """The model, which must use every tensor of the folder and miss none."""
  import torch

  model, info = transformers.AutoModelForCausalLM.from_pretrained(
    folder,
    dtype=getattr(torch, dtype),
    attn_implementation='eager',
    output_loading_info=True,
    **options,
  )
  for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys'):
    assert not info[kind], (kind, info[kind])
  return model.eval()


def logits(model, tokens, mask=None, *, shift=0):
  """f32[N, S, V] with positions counted over real tokens."""
  import torch

  mask = np.ones(tokens.shape, bool) if mask is None else mask
  with torch.no_grad():
    out = model(
      input_ids=torch.tensor(tokens, dtype=torch.long),
      attention_mask=torch.tensor(mask, dtype=torch.long),
      position_ids=torch.tensor(
        hf_cases.positions(mask) + shift, dtype=torch.long
      ),
    )
  return out.logits.float().numpy()


def greedy(model, tokens, mask):
  """i32[N, 64] most likely continuations of left-padded prompts."""
  import torch

  out = model.generate(
    torch.tensor(tokens, dtype=torch.long),
    attention_mask=torch.tensor(mask, dtype=torch.long),
    max_new_tokens=hf_cases.NEW_TOKENS,
    do_sample=False,
    pad_token_id=0,
    eos_token_id=None,
  )
  return out[:, tokens.shape[1] :].numpy().astype(np.int32)


def answers(model, tokens, mask, long):
  """Everything that is compared, for the inputs of `hf_cases.inputs`."""
  kept = slice(-hf_cases.LONG_KEPT, None)
  return {
    'padded': logits(model, tokens, mask),
    'long': logits(model, long)[:, kept],
    'far': logits(model, long[:1], shift=hf_cases.FAR)[:, kept],
    'greedy': greedy(model, *hf_cases.prompts(tokens)),
  }


def rotary(hf):
  """The rotary embedding of a Llama with these rotary keys and `head_dim`."""
  from transformers.models.llama import modeling_llama

  config = transformers.LlamaConfig(max_position_embeddings=4096, **hf)
  return modeling_llama.LlamaRotaryEmbedding(config)
