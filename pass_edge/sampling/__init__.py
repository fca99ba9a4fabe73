"""Sample tokens from logits.

sampler.py      filters, and the choice of a token (Sampling, Sampler, Distribution)
noise.py        random numbers keyed by seed, position and token id
constrained.py  sampling under a grammar
minimum.py      texts that end only after a number of tokens
logprobs.py     log-probabilities of a chosen token and of its alternatives
"""
