"""Requests and results in the shape of OpenAI's API, which is llama-cpp-python's too.

completions.py  requests with llama-cpp-python's parameters, and what they ask of an engine
creating.py     requests as methods of an engine
messages.py     OpenAI's messages as a chat template wants them
tools.py        tools as grammars, and calls read out of an answer
answers.py      a request being answered
responses.py    what was generated, as result objects and chunks
llama.py        the class that code written for llama-cpp-python expects
"""
