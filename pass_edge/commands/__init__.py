"""The commands of `pass-edge`, one module for each, which cli.py imports.

bench_comparison.py  what bench measures
bench_report.py      what it found, as JSON and in words; bench_tables.py and bench_html.py show it
conversation.py      a conversation as messages, for chat and generate
engine_options.py    the options that commands share, and the engine they open
terminal/            reading from a terminal and writing to it
"""
