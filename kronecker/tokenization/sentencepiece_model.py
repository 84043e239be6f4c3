"""SentencePiece .model files with byte fallback, through the sentencepiece library."""

import hashlib

import sentencepiece

from kronecker.tokenization import base, trials


def from_file(spec: str, path: str) -> base.Tokenizer:
    """Returns the tokenizer of a SentencePiece model.

    A byte piece has its byte; a control or unknown piece has its literal text; any other piece has its text with U+2581
    replaced by a space.  So the bytes of a text's ids are the text as the model normalises it.  The models of Llama 2
    and Mistral prepend one space to a text that is not empty, treat a U+2581 in it as a space, and change nothing else.
    A model may compose characters (NFKC); one that changes ordinary text, such as repeated spaces, is refused.
    User-defined pieces are recognised in text, and their bytes are their own text.

    Raises FileNotFoundError if the file does not exist; ValueError if it is damaged, has no byte fallback, or changes
    text.
    """
    content = base.read(spec, path)
    model = sentencepiece.SentencePieceProcessor()
    with base.library_errors(
        f"tokenizer {spec}: the file is not a SentencePiece model, or is damaged; download it again"
    ):
        model.LoadFromSerializedProto(content)
        ids = range(model.vocab_size())
        pieces = [model.id_to_piece(i) for i in ids]
    if not any(map(model.is_byte, ids)):
        raise ValueError(
            f"tokenizer {spec}: the model has no byte fallback, so characters outside its vocabulary have no bytes; "
            "use one trained with byte_fallback"
        )
    base.refuse_missing_bytes(
        spec, {base.BYTE_PIECES[piece][0] for i, piece in zip(ids, pieces, strict=True) if model.is_byte(i)}
    )
    literal = {i for i in ids if model.is_control(i) or model.is_unknown(i)}
    token_bytes = tuple(_raw_bytes(piece, i in literal, model.is_byte(i)) for i, piece in enumerate(pieces))

    def decoded() -> tuple[bytes, ...]:
        texts = model.decode([[i] for i in ids])
        kept = [i in literal or model.is_byte(i) for i in ids]
        return tuple(token_bytes[i] if kept[i] else text.encode() for i, text in enumerate(texts))

    tokenizer = base.assemble(
        spec,
        base.label(path),
        token_bytes=token_bytes,
        special={pieces[i]: i for i in literal},
        # scores and normaliser too, as the vocabulary alone is not enough
        rules={"model": hashlib.sha256(content).hexdigest()},
        encode=lambda texts, num_threads: model.encode(texts, num_threads=num_threads),
        library_decoded=decoded,
        other_forms=lambda text: base.with_spaces(model.normalize(text)),
    )
    return trials.check(tokenizer, (pieces[i] for i in literal))


def _raw_bytes(piece: str, literal: bool, byte: bool) -> bytes:
    if byte:
        return base.BYTE_PIECES[piece]
    return (piece if literal else piece.replace(base.SPACE_MARK, " ")).encode()
