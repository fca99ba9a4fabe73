"""Text to tokens and back, as llama.cpp's server and vLLM's have it."""

from __future__ import annotations

from pass_edge import Engine
from pass_edge.native.errors import SettingsError
from pass_edge.native.vocabulary import Vocabulary

from .request_schemas import DetokenizeBody, TokenizeBody
from .response_schemas import Text, TokenPiece, Tokens


def tokenize(engine: Engine, body: TokenizeBody) -> Tokens:
    """Return the tokens of a text. Raises SettingsError if there is none."""
    engine.check()
    text = body.prompt if body.content is None else body.content
    if text is None:
        raise SettingsError("there is no text; send it as content (or as prompt, as vLLM has it)")
    vocabulary = engine.model.vocabulary
    ids = vocabulary.tokenize(
        text,
        add_special=body.add_special if body.prompt is None else body.add_special_tokens,
        parse_special=body.parse_special,
    ).tolist()
    return Tokens(
        tokens=[TokenPiece(id=token, piece=_piece(vocabulary, token)) for token in ids]
        if body.with_pieces
        else ids,
        count=len(ids),
        max_model_len=engine.context_size,
        token_strs=[vocabulary.piece(token, special=True).decode(errors="replace") for token in ids]
        if body.return_token_strs
        else None,
    )


def detokenize(engine: Engine, body: DetokenizeBody) -> Text:
    """Return the text of tokens, control tokens written out. Raises ModelError if there is no such token."""
    engine.check()
    pieces = (engine.model.vocabulary.piece(token, special=True) for token in body.tokens)
    text = b"".join(pieces).decode(errors="replace")
    return Text(content=text, prompt=text)


def _piece(vocabulary: Vocabulary, token: int) -> str | list[int]:
    raw = vocabulary.piece(token, special=True)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)
