"""Requests and results of OpenAI's API, which are llama-cpp-python's too.

requests.py    the parameters of a request
complete.py    answer a request with an engine: as one object, or as chunks
answers.py     an answer while it is being generated
formatters.py  generated text as result objects and chunks
messages.py    OpenAI's messages in the form that chat templates take
tools.py       tools as grammars; tool calls found in the generated text
llama.py       `Llama`, the class that code written for llama-cpp-python expects
"""
