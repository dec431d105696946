"""A decoder in float64 NumPy, one sequence, one head, one query at a time."""

import numpy as np


def rms_norm(x, weight, eps):
  x = np.float64(x)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * np.float64(weight)


def dense(x, params):
  y = np.float64(x) @ np.float64(params['kernel'])
  return y + np.float64(params['bias']) if 'bias' in params else y


def silu(x):
  return x / (1.0 + np.exp(-x))


def softmax(x):
  x = np.exp(x - x.max())
  return x / x.sum()


def rotate(x, position, theta):
  """RoPE of one head's vector: x cos + rotate_half(x) sin."""
  half = x.shape[-1] // 2
  frequencies = theta ** -(2.0 * np.arange(half) / x.shape[-1])
  angles = np.concatenate([position * frequencies] * 2)
  rotate_half = np.concatenate([-x[half:], x[:half]])
  return x * np.cos(angles) + rotate_half * np.sin(angles)


def attention(x, params, hf, window=None):
  length = len(x)
  heads, kv_heads = hf['num_attention_heads'], hf['num_key_value_heads']
  width, eps, theta = hf['head_dim'], hf['rms_norm_eps'], hf['rope_theta']
  q = dense(x, params['q_proj']).reshape(length, heads, width)
  k = dense(x, params['k_proj']).reshape(length, kv_heads, width)
  v = dense(x, params['v_proj']).reshape(length, kv_heads, width)
  if hf['model_type'] == 'qwen3':
    q = rms_norm(q, params['q_norm']['weight'], eps)
    k = rms_norm(k, params['k_norm']['weight'], eps)
  out = np.zeros((length, heads, width))
  for h in range(heads):
    shared = h * kv_heads // heads
    for t in range(length):
      query = rotate(q[t, h], t, theta)
      first = max(0, t + 1 - window) if window else 0
      seen = range(first, t + 1)
      scores = [query @ rotate(k[s, shared], s, theta) for s in seen]
      weights = softmax(np.array(scores) / np.sqrt(width))
      out[t, h] = weights @ v[first : t + 1, shared]
  return dense(out.reshape(length, -1), params['o_proj'])


def swiglu(x, params):
  gate = silu(dense(x, params['gate_proj']))
  return dense(gate * dense(x, params['up_proj']), params['down_proj'])


def windows(hf):
  """Tokens that each layer sees, its own included; None: all."""
  layers = hf['num_hidden_layers']
  if hf['model_type'] == 'mistral':
    return [hf['sliding_window']] * layers
  kinds = hf.get('layer_types', ['full_attention'] * layers)
  return [
    hf['sliding_window'] if kind == 'sliding_attention' else None
    for kind in kinds
  ]


def logits(tokens, params, hf):
  """f64[S, V] of S tokens, none of them padding."""
  eps = hf['rms_norm_eps']
  embedding = np.float64(params['embed_tokens']['embedding'])
  x = embedding[np.asarray(tokens)]
  for i, window in enumerate(windows(hf)):
    layer = params[f'layers_{i}']
    normed = rms_norm(x, layer['input_layernorm']['weight'], eps)
    x = x + attention(normed, layer['self_attn'], hf, window)
    normed = rms_norm(x, layer['post_attention_layernorm']['weight'], eps)
    x = x + swiglu(normed, layer['mlp'])
  x = rms_norm(x, params['norm']['weight'], eps)
  if hf['tie_word_embeddings']:
    return x @ embedding.T
  return x @ np.float64(params['lm_head'])
