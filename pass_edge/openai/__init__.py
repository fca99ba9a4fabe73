"""Requests and results of OpenAI's API, which are llama-cpp-python's too.

requests.py    the parameters of a request
complete.py    answer a request with an engine: as one object, or as chunks
answers.py     an answer while it is being generated
formatters.py  generated text as result objects and chunks
llama_cpp_formatter.py  generated text in the form of llama.cpp's own endpoint
logit_bias.py  biases by token id or text
output_form.py the form that a text must have, as a grammar
embeddings.py  requests for embeddings and their results
messages.py    OpenAI's messages in the form that chat templates take
tools.py       tools as grammars; tool calls found in the generated text
notations/     how families of models write tool calls
thinking.py    the thinking before an answer
responses.py   requests of the Responses API as requests for a chat
response_formatter.py  generated text as responses and their events
llama_embeddings.py  vectors of texts
samplers.py    llama.cpp's lists of samplers
infill.py      prompts for the text between a prefix and a suffix
message_parser.py  generated text as thinking, content and tool calls
llama.py       `Llama`, the class that code written for llama-cpp-python expects
"""
