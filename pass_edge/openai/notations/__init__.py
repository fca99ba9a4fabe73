"""How families of models write tool calls, a file for each kind of notation.

A chat template shows its notation by the signs in it.

notation.py          the table of notations and families
json_calls.py        a JSON object with the name and the arguments
named_calls.py       the name, then the arguments as a JSON object
xml_calls.py         an element for each parameter
python_calls.py      a function call of Python
gemma_calls.py       Gemma's own
call.py              one call as far as it has come, and what readers share
arguments_schema.py  the schema of a tool's arguments, parameter by parameter
lark_rules.py        grammars that make a model write a call
"""

from .call import Call, IncompleteError, Schemas
from .notation import HERMES, NOTATIONS, Notation, notation_of

__all__ = ["HERMES", "NOTATIONS", "Call", "IncompleteError", "Notation", "Schemas", "notation_of"]
