"""Prints the parity table of docs/models.md, against live PyTorch models.

python -m tests.golden.parity_table
"""

import tempfile

from tests.golden import hf_cases, hf_torch
from tests.models.formats import test_hf_weights_parity as parity


def main():
  print('| case | padded | long | far | greedy | bfloat16 |')
  print('|---|---|---|---|---|---|')
  for name, hf in hf_cases.CASES.items():
    tensors, tokens, mask, long = hf_cases.make(name)
    with tempfile.TemporaryDirectory() as folder:
      hf_cases.write(folder, hf, tensors)
      want = hf_torch.answers(hf_torch.load(folder), tokens, mask, long)
      got = parity.answers(*parity.load(folder), tokens, mask, long)
      low = parity.bfloat16_differences(hf_torch, folder, tokens, mask)
    apart = parity.differences(got, want, mask)
    cells = [f'{apart[kind]:.1e}' for kind in ('padded', 'long', 'far')]
    same = int((got['greedy'] == want['greedy']).all(axis=0).sum())
    cells += [f'{same} of {hf_cases.NEW_TOKENS}', f'{low[0]:.2f}']
    cells[-1] += f' (mean {low[1]:.3f}; to f32 {low[2]:.3f}, {low[3]:.3f})'
    print(f'| {name} | {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
  main()
