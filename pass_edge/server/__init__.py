"""The OpenAI-compatible server (``pip install pass-edge[serve]``): only here are web libraries imported.

run.py               the process: socket, signals, shutdown
app.py               the endpoints
paths.py             paths, methods and content types as clients send them
access.py            API key, host name, size of the body
model_pool.py        the models: loaded on demand, unloaded when memory is short
admission.py         the queue in front of a model
request_handler.py   from an admitted request to its response
request_schemas.py   request bodies
request_fields.py    fields that are passed over, and fields that are refused
tokens.py            text to tokens and back
page.py, page.html   the page to chat in
properties.py        what llama.cpp's clients ask of a server
response_schemas.py  responses
errors.py            errors as OpenAI's objects
metrics.py           metrics for Prometheus
settings.py          address, key and limits
"""
