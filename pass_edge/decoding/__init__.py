"""Conversations in the KV cache: decode a draft tree, verify it, keep what was accepted, roll the rest back.

session.py          one conversation: prefill, step, save, load
batcher.py          which conversations share the next forward pass, and the pass itself
kv_cache.py         the KV cache: lay out a tree, commit the accepted path, roll back the rest
recurrent_state.py  how a recurrent memory goes back to what it held before
verify.py           which drafted tokens are accepted
slots.py            which generation has which session
saved_session.py    the file format of saved sessions
batch_generator.py  many prompts answered at once, without drafts
"""
