"""Measure an encoder: how well it guesses a token from both its sides, beside an n-gram that is read from both sides too.

An encoder gives no probability of a text. Pseudo-perplexity hides one token at a time, scores it from all the others, and takes
these scores for what a language model's would be (Salazar et al. 2020, "Masked Language Model Scoring", section 2): it
compares encoders with each other, and must not be set beside the perplexity of a model that reads from left to right.
The baseline has what the encoder has: p(w | left, right) is proportional to the product of the n-gram's probabilities of w and
of the ids after it whose context w is in, and is normalised over the whole vocabulary, exactly.

    report = report_masked(model, tokenizer, shard_text(Shard.open(folder, "test")), ngram, ngram.name)
    report.metrics["pseudo_bits_per_byte"].value

N positions · V vocabulary · K contexts of an n-gram less one · R resamples
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from myna.console import say, track
from myna.data.masking import Marks, Masked, frame, read_marks
from myna.data.options import MaskingOptions
from myna.errors import UserError
from myna.evaluate.language import Text
from myna.evaluate.options import EvaluateOptions
from myna.metrics.language import block_size, perplexity
from myna.metrics.paired import Measure, measured_report, ratio
from myna.metrics.report import Report
from myna.models.ngram import Ngram
from myna.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from myna.models.encoder import Encoder

Array = npt.NDArray[Any]

POSITIONS = 2000  # hidden one at a time; the interval of their mean is then about 4 % wide (docs/families/encoder.md)
VALIDATION_TOKENS = 32_768  # of the quick sample: some 4,900 guesses
_TOKENS_AT_ONCE = 8192  # ids per forward pass: bounds memory, large enough for full speed
_FEWEST_RESAMPLES = 100  # as in myna.evaluate.language


@dataclass(frozen=True)
class Guesses:
    """What one model made of the same hidden tokens: (N,) each."""

    log_probs: Array  # of the true token, natural logarithms
    correct: Array  # whether it was the likeliest
    likeliest: Array


@dataclass(frozen=True)
class Hidden:
    """A text's ids, those of them that were hidden one at a time, and what was guessed."""

    stream: Array
    chosen: Array
    "Places of the hidden ids in the stream."
    lengths: Array
    "Bytes of each."
    blocks: Array
    "The block of the bootstrap that each is in."
    block_size: int
    tokens: int
    "Ids that could have been hidden."
    model: Guesses
    baseline: Guesses | None


def report_masked(model: Encoder, tokenizer: Tokenizer, text: Text, baseline: Ngram | None = None, name: str = "n-gram",
                  options: EvaluateOptions | None = None, positions: int = POSITIONS) -> Report:
    """Score an encoder, and an n-gram with the same tokenizer (called `name`), on the same hidden tokens of a text.

    As `guess_hidden` does. Raises UserError when the text is too short or the tokenizer has no mask token.
    """
    options = options or EvaluateOptions()
    return report_hidden(guess_hidden(model, tokenizer, text, baseline, options, positions), name if baseline else "", tokenizer, options)


def guess_hidden(model: Encoder, tokenizer: Tokenizer, text: Text, baseline: Ngram | None, options: EvaluateOptions,
                 positions: int = POSITIONS) -> Hidden:
    """Hide tokens of a text one at a time, and let an encoder, and an n-gram with the same tokenizer, guess them.

    Of a long text, one token of each of `positions` equal stretches is hidden, drawn with the options' seed; this is said. Raises UserError
    when the tokenizer has no mask token.
    """
    if options.resamples < _FEWEST_RESAMPLES:
        raise UserError(f"resamples is {options.resamples}", f"at least {_FEWEST_RESAMPLES}, for the ends of an interval")
    if baseline is not None and baseline.vocab_size != model.vocab_size:
        raise UserError(f"a baseline of {baseline.vocab_size} ids beside an encoder of {model.vocab_size}", "the same tokenizer for both")
    marks, end = read_marks(tokenizer), [tokenizer.separator_id]
    stream = np.concatenate([end, *(part for document in text.documents(tokenizer) for part in (document, end))]).astype(np.int64)
    lengths = np.array([len(piece) for piece in tokenizer.token_bytes])[stream]
    scored = np.flatnonzero(lengths)  # marks stand for no text
    chosen = scored[draw_positions(len(scored), positions, options.seed)]
    if len(chosen) < len(scored):
        say(f"pseudo-perplexity: {len(chosen):,} of {len(scored):,} tokens are hidden, one at a time, evenly spread")
    size = block_size(max(1, text.bytes))
    blocks = (np.cumsum(lengths) - lengths)[chosen] // size  # of each token's first byte
    return Hidden(stream, chosen, lengths[chosen], blocks, size, len(scored), guess(model, stream, chosen, marks),
                  None if baseline is None else guess_from_both_sides(baseline, stream, chosen))


def draw_positions(count: int, wanted: int, seed: int) -> Array:
    """Draw one of each of `wanted` equal stretches of 0..count-1; all of them when they are no more."""
    if count <= wanted:
        return np.arange(count)
    inside = np.random.default_rng(seed).random(wanted)
    return np.minimum(((np.arange(wanted) + inside) * (count / wanted)).astype(np.int64), count - 1)


def guess(model: Encoder, stream: Array, positions: Array, marks: Marks) -> Guesses:
    """Hide one token at a time in the middle of as much text as the encoder takes, and score it."""
    import torch

    body = min(model.max_length - 2, len(stream))  # between the class mark and the separator
    starts = np.clip(positions - body // 2, 0, len(stream) - body)
    log_probs, likeliest = np.empty(len(positions), np.float32), np.empty(len(positions), np.int64)
    rows = max(1, _TOKENS_AT_ONCE // (body + 2))
    with track("guessing hidden tokens", len(positions), " tokens") as advance:
        for at in range(0, len(positions), rows):
            here, first = positions[at:at + rows], starts[at:at + rows]
            framed = frame(stream[first[:, None] + np.arange(body)], marks)
            row, column = np.arange(len(here)), here - first + 1
            framed[row, column] = marks.mask_id
            chosen = np.zeros(framed.shape, bool)
            chosen[row, column] = True
            scores = model.masked_log_probs(torch.from_numpy(framed), chosen=torch.from_numpy(chosen))  # (rows, V)
            log_probs[at:at + rows] = scores[row, stream[here]]
            likeliest[at:at + rows] = scores.argmax(axis=1)
            advance(len(here))
    return Guesses(log_probs, likeliest == stream[positions], likeliest)


def guess_from_both_sides(ngram: Ngram, stream: Array, positions: Array) -> Guesses:
    """Score hidden tokens by an n-gram that sees what is left and right of them, over the whole vocabulary."""
    log_probs, likeliest = np.empty(len(positions), np.float32), np.empty(len(positions), np.int64)
    with track("the n-gram guesses them", len(positions), " tokens") as advance:
        for number, position in enumerate(positions.tolist()):
            scores = both_sides(ngram, stream, position)
            log_probs[number], likeliest[number] = scores[stream[position]], scores.argmax()
            advance(1)
    return Guesses(log_probs, likeliest == stream[positions], likeliest)


def both_sides(ngram: Ngram, stream: Array, position: int) -> Array:
    """Return log p(w | the other ids) of every id w of the vocabulary at a position of a stream, (V,) float64.

    Only ids within order - 1 of the position matter. All candidates are scored as one long document of texts "left w right": an
    n-gram looks back no further than `left` is long, so what it sees of the text before does not count.
    """
    reach = ngram.order - 1
    ends = np.full(reach, ngram.separator_id)
    padded = np.concatenate((ends, stream[max(0, position - reach):position + reach + 1], ends))
    at = reach + min(position, reach)
    around = padded[at - reach:at + reach + 1]
    texts = np.tile(around, (ngram.vocab_size, 1))  # (V, 2 reach + 1)
    texts[:, reach] = np.arange(ngram.vocab_size)
    scores = np.asarray(ngram.log_probs(texts.ravel()), np.float64).reshape(texts.shape)  # type: ignore[arg-type]
    summed = scores[:, reach:].sum(axis=1)
    out: Array = summed - np.logaddexp.reduce(summed)
    return out


def report_hidden(hidden: Hidden, name: str, tokenizer: Tokenizer, options: EvaluateOptions) -> Report:
    """Score guesses with intervals. Raises UserError when they are all of one block of text."""
    guesses = [hidden.model, *([] if hidden.baseline is None else [hidden.baseline])]
    lengths = hidden.lengths
    kept, where = np.unique(hidden.blocks, return_inverse=True)
    if len(kept) < 2:
        raise UserError("a text of one block", "at least two, for an interval", "give more text")

    def added(*columns: Array) -> Array:
        return np.stack([np.bincount(where, column, minlength=len(kept)) for column in columns], axis=1)

    one = np.ones(len(lengths))
    signature = (f"{{}}|one-token-hidden|{len(lengths)}of{hidden.tokens}tokens|tokenizer={tokenizer.fingerprint[:12]}"
                 f"|bootstrap={options.resamples}|block={hidden.block_size}B|seed={options.seed}|v1").format
    bits = [guess.log_probs.astype(np.float64) / -np.log(2) for guess in guesses]
    measures = {}
    for metric, columns, formula in (("pseudo_bits_per_byte", [added(b, lengths) for b in bits], ratio),
                                     ("pseudo_perplexity", [added(b, one) for b in bits], perplexity),
                                     ("masked_accuracy", [added(guess.correct, one) for guess in guesses], ratio)):
        measures[metric] = Measure(columns[0], formula, signature(metric), columns[1] if len(columns) > 1 else None,
                                   lower_is_better=metric != "masked_accuracy")
    return measured_report(measures, name, options.resamples, options.seed)


# ---- during training ----

def validation_batches(ids: Array, context: int, marks: Marks, options: MaskingOptions | None = None, pairs: bool = False,
                       tokens: int = VALIDATION_TOKENS) -> list[dict[str, Tensor]]:
    """Take a fixed sample of a split, its hidden tokens fixed too, as batches for `masked_loss`; none of a split that is too short."""
    import torch

    context = min(context, len(ids) + 1)
    try:
        reader = Masked(ids, context, 0, marks, options, pairs)
    except UserError:
        return []
    rows = max(1, min(tokens, len(ids)) // context)
    at_once = max(1, _TOKENS_AT_ONCE // context)
    whole = {name: torch.from_numpy(values) for name, values in reader.read(0, rows).items()}
    return [{name: values[at:at + at_once] for name, values in whole.items()} for at in range(0, rows, at_once)]


def masked_loss(model: Encoder, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Measure batches as training sees them: mean nats of a hidden token, and the share guessed right."""
    total, right, count = 0.0, 0, 0
    for batch in batches:
        chosen = batch["labels"] >= 0
        scores = model.masked_log_probs(batch["input_ids"], batch.get("attention_mask"), chosen, batch.get("token_type_ids"))
        targets = batch["labels"][chosen].numpy()
        total -= float(scores[np.arange(len(targets)), targets].sum(dtype=np.float64))
        right += int((scores.argmax(axis=1) == targets).sum())
        count += len(targets)
    return {"masked_loss": total / count, "masked_accuracy": right / count} if count else {}
