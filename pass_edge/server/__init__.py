"""The OpenAI-compatible server: the only room that imports web libraries. It needs ``pass-edge[serve]``."""
