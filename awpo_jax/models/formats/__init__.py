"""Models as other programs write them: Hugging Face folders and GGUF files.

Start with `hf_weights.py`, which reads both into the decoder's parameters and
writes the former; `hf_families.py` knows the keys of their configs.
"""
