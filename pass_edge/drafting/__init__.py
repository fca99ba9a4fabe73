"""Draft sources, and the tree of drafted tokens that one forward pass verifies.

tree.py            the draft tree, and its layout as a llama.cpp batch
ngrams.py          drafts from repetitions in the conversation (prompt lookup)
heads.py           drafts from trained draft heads
draft_model.py     drafts from a smaller model with the same tokenizer
mtp.py             drafts from the model's own MTP layers
drafter.py         drafts from lookahead tokens and heads, depth by depth
lookahead.py       the trained parameters for a model: embeddings, prefix, heads
lookahead_file.py  their file format
schedules.py       which tree each pass decodes: plain, head, two-pass, fused
"""
