"""Conversations in the KV cache: decode a draft tree, verify it, keep what was accepted, roll the rest back.

session.py          one conversation: prefill, step, roll back, save, load
batcher.py          forward passes that conversations share
kv_cache.py         the cells of the KV cache: which are shared, kept and removed
verify.py           which drafted tokens are accepted
slots.py            which generation has which session
saved_session.py    the file format of saved sessions
batch_generator.py  many prompts answered at once, without drafts
"""
