"""What `import myna` shows: build a model from text, load one, and use it. The command line stands on the same functions.

    report = myna.build("my-texts/", minutes=10, out="my-model")
    model = myna.load("my-model")
    print(model.generate("Once upon a time", max_tokens=64, seed=1))
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast, overload

from myna.config import make
from myna.console import say
from myna.errors import UserError
from myna.evaluate.options import EvaluateOptions
from myna.generate.chat import Conversation
from myna.generate.fill import Filling, fill_text
from myna.generate.options import FillOptions, SampleOptions
from myna.generate.rules import Rules, read_rules
from myna.generate.text import Generation, Stream, generate_text, stream_text
from myna.metrics.report import Report
from myna.models.adapter import holder_of
from myna.models.families import Family, family_of
from myna.models.fetched import resolve_model
from myna.models.mixture import Mixture
from myna.models.pooling import read_pooling
from myna.models.precision import Precision
from myna.models.pretrained import load_directory
from myna.models.protocol import LanguageModel, LogProbs
from myna.recipe import BuildOptions, Recipe, TuneRecipe
from myna.retrieval.index import Hit
from myna.retrieval.options import Mode, SearchOptions
from myna.tasks.answer import Answered, Answerer, answer_freely, is_answerer, open_documents
from myna.tasks.classify import Classified, Classifier, is_classifier
from myna.tasks.embed import Vectors, embed_texts
from myna.tasks.options import CompleteOptions, TranscribeOptions, TranslateOptions
from myna.tasks.search import Searcher, is_index
from myna.tasks.summarize import SUMMARIZE, Extractor, Summary, is_extractor, summarize_chunks
from myna.tasks.tag import TaggedText, WordTagger, is_tagger
from myna.tasks.translate import Translated, Translator, is_translator
from myna.tasks.writing import Writer
from myna.tokenizer.chat import ChatTemplate, Message
from myna.tokenizer.tokenizer import Tokenizer
from myna.train.options import TuneOptions

if TYPE_CHECKING:
    from myna.tasks.complete import Completed
    from myna.tasks.transcribe import Transcript

Paths = str | Path | Sequence[str | Path]


class Sampling(TypedDict, total=False):
    """How to continue a prompt; what is left out is as in `SampleOptions`, which says what each means."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    stop: str | Sequence[str]
    seed: int | None
    num_beams: int
    length_penalty: float
    penalty_alpha: float


class Transcribing(TypedDict, total=False):
    """How speech becomes text; what is left out is as in `TranscribeOptions`."""

    language: str
    task: str
    num_beams: int


class Completing(TypedDict, total=False):
    """How the body of a function is written; what is left out is as in `CompleteOptions`."""

    max_tokens: int
    temperature: float
    seed: int | None


class Measuring(TypedDict, total=False):
    """How intervals are drawn; what is left out is as in `EvaluateOptions`."""

    resamples: int
    seed: int


def build(inputs: Paths, minutes: float = 10.0, out: str | Path = "my-model", *, steps: int | None = None, seed: int = 0,
          threads: int | None = None, family: Family = "decoder", resume: bool = False, valid: Paths = (),
          test: Paths = (), options: Mapping[str, Any] | None = None) -> Report:
    """Make a model directory at `out` from files and folders of text; returns its scores on the test split.

    options: those of the stages, by the names of the command line's flags, as {"train.learning_rate": 0.01}.
    Raises UserError on anything that can be mended, and Interrupted, a KeyboardInterrupt, when stopped after saving.

        myna.build("my-texts/", minutes=3, out="my-model", options={"tokenizer.kind": "characters"}).metrics["bits_per_byte"].value
    """
    from myna.roads.build import build as build_directory  # here, so that using a model does not load what makes one

    wanted = {"minutes": minutes, "steps": steps, "seed": seed, "threads": threads, "family": family}
    recipe = Recipe.from_flat(options or {}, make(BuildOptions, wanted))
    return build_directory(_paths(inputs), Path(out), recipe, resume, _paths(valid), _paths(test))


def tune(base: str | Path, data: Paths, minutes: float = 10.0, out: str | Path = "my-model", *, resume: bool = False,
         valid: Paths = (), test: Paths = (), options: Mapping[str, Any] | None = None, **tuning: Any) -> Report:
    """Teach a trained model from rows of conversations, answers or text; returns its scores beside its base's.

    task="classify": labelled texts; the base may be "new", and valid and test may be given apart.

    tuning: what `TuneOptions` has beside the minutes, as steps, method, rank, learning_rate. options: those of the stages, as
    {"rows.prompt": "ask", "train.validations": 3}. Raises UserError and Interrupted as `build`.

        myna.tune("smollm2", "my-rows.jsonl", minutes=10, out="my-model", rank=8).improvements["bits_per_byte"].value
    """
    from myna.roads.tune import tune as tune_directory

    recipe = TuneRecipe.from_flat(options or {}, make(TuneOptions, {"minutes": minutes, **tuning}))
    return tune_directory(base, _paths(data), Path(out), recipe, resume, _paths(valid), _paths(test))


def load(name: str | Path, member: str | None = None, precision: Precision = "float32") -> Model:
    """Open a model directory, or a fetched model by its name: its mixture if it has one, which is said, or the `member` named.

    precision: float32; bfloat16, matrices in half the memory; int8, a decoder made for fast text on a CPU.

    Raises UserError when it is not one, is damaged, or its tokenizer gives other ids than it was trained with.

        model = myna.load("my-model")
        alone = myna.load("my-model", member="decoder")
        fast = myna.load("my-model", precision="int8")
        smollm2 = myna.load("smollm2")          # after `myna fetch smollm2`
    """
    folder = resolve_model(name)
    if is_answerer(folder) and member is None:
        if precision != "float32":
            raise UserError(f"{folder} answers questions, in float32", "float32", "leave out the precision")
        tokens = Tokenizer.open(folder) if (folder / "tokenizer.json").is_file() else cast(Tokenizer, None)
        return Model(folder, Answerer.open(folder), tokens)
    if is_tagger(folder) and member is None:
        if precision != "float32":
            raise UserError(f"{folder} is a tagger, which computes in float32", "float32", "leave out the precision")
        tagger = WordTagger.open(folder)
        return Model(folder, tagger, Tokenizer.open(folder) if (folder / "tokenizer.json").is_file() else cast(Tokenizer, None))
    if is_extractor(folder) and member is None:
        if precision != "float32":
            raise UserError(f"{folder} takes sentences out of texts and computes nothing in {precision}", "float32",
                            "leave out the precision")
        return Model(folder, Extractor.open(folder), cast(Tokenizer, None))
    if is_translator(folder) and member is None:
        if precision != "float32":
            raise UserError(f"{folder} is a translator, which computes in float32", "float32", "leave out the precision")
        translator = Translator.open(folder)
        return Model(folder, translator, translator.coder.tokenizer)
    if is_classifier(folder) and member is None:
        if precision != "float32":
            raise UserError(f"{folder} is a classifier, which computes in float32", "float32", "leave out the precision")
        classifier = Classifier.open(folder)
        return Model(folder, classifier, Tokenizer.open(folder) if (folder / "tokenizer.json").is_file() else cast(Tokenizer, None))
    if is_index(folder):
        return Model(folder, Searcher.open(folder), cast(Tokenizer, None))
    model = load_directory(folder, member, precision)
    if isinstance(model, Mixture):
        say(f"{folder} is a mixture: {model.name} (member={model.names[0]!r} takes one alone)")
    tokenizer = Tokenizer.open(holder_of(folder, "tokenizer.json"))
    if family_of(getattr(getattr(model, "config", None), "model_type", "")) == "decoder":
        begins = tokenizer.beginning_id()
        model.separator_id = model.separator_id if begins is None else begins
    return Model(folder, model, tokenizer)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model with its tokenizer, as its directory holds them."""

    folder: Path
    model: Any = dataclasses.field(repr=False)
    "A `LanguageModel`, an encoder or word vectors."
    tokenizer: Tokenizer = dataclasses.field(repr=False)

    @property
    def language_model(self) -> LanguageModel:
        """The model, where it predicts a next token. Raises UserError where it does not."""
        if not hasattr(self.model, "step"):
            raise UserError(f"{self.folder} holds a model that does not predict a next token ({type(self.model).__name__})",
                            "a model of another family", "`myna fill` uses encoders, `myna similar` word vectors")
        speaking: LanguageModel = self.model
        return speaking

    @functools.cached_property
    def rules(self) -> Rules:
        """What the directory says of generation: the ids that end a text, those never said, and what its makers suggest."""
        return read_rules(holder_of(self.folder, "config.json"), self.language_model.vocab_size)

    @functools.cached_property
    def target_tokenizer(self) -> Tokenizer:
        """The tokenizer of what the model writes: Marian may have one for each language."""
        return Tokenizer.open(self.folder, "target") if self.rules.source else self.tokenizer

    @overload
    def generate(self, prompt: str = "", *, n: None = None, **options: Unpack[Sampling]) -> Generation: ...

    @overload
    def generate(self, prompt: str = "", *, n: int, **options: Unpack[Sampling]) -> list[Generation]: ...

    def generate(self, prompt: str = "", *, n: int | None = None, **options: Unpack[Sampling]) -> Generation | list[Generation]:
        """Continue a prompt; with `n`, that many times in one batch, as a list. An empty prompt begins a new document.

        An encoder-decoder that learned from pairs (T5, Marian, BART of others) reads the prompt as its source: what comes answers it.
        Raises UserError on a wrong option, or when the prompt does not fit the model: it is never cut.

            out = model.generate("Once", max_tokens=64, temperature=0.8, top_p=0.95, stop=["\\n\\n"], seed=1)
            str(out), out.tokens, out.log_probs, out.finish_reason
        """
        drawn = generate_text(self.language_model, self.tokenizer, prompt, _sample_options(n, options), self.rules,
                              self.target_tokenizer)
        return drawn[0] if n is None else drawn

    def stream(self, prompt: str = "", *, n: int = 1, **options: Unpack[Sampling]) -> Stream:
        """Continue a prompt, giving (row, piece of text) as soon as a piece is certain; `.generations` holds the whole.

            for _, piece in model.stream("Once"):
                print(piece, end="", flush=True)
        """
        return stream_text(self.language_model, self.tokenizer, prompt, _sample_options(n, options), self.rules,
                           self.target_tokenizer)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Give every text a vector, pooled as the encoder's directory says: (N, C) float32. What is too long is cut, and this is said.

        Raises UserError where the model is no encoder.

            vectors = myna.load("minilm").embed(["A cat sits.", "A dog runs."])
        """
        return embed_texts(self.model, self.tokenizer, read_pooling(self.folder), [texts] if isinstance(texts, str) else texts)

    @functools.cached_property
    def chat_template(self) -> ChatTemplate:
        """How the model writes a conversation. Raises UserError where it was not made for conversations."""
        return ChatTemplate.open(self.folder, self.tokenizer)

    def conversation(self, messages: Sequence[Message] = (), **options: Unpack[Sampling]) -> Conversation:
        """Begin a conversation, or go on with one; the model remembers it between answers.

            talk = model.conversation([{"role": "system", "content": "Be brief."}])
            talk.ask("Hello")
            for piece in talk.answer():
                print(piece, end="", flush=True)
        """
        return Conversation(self.language_model, self.tokenizer, self.chat_template, _sample_options(None, options), self.rules, messages)

    def chat(self, messages: Sequence[Message], **options: Unpack[Sampling]) -> Generation:
        """Answer the last of the messages, each a {"role": "system", "user" or "assistant", "content": text}.

        Raises UserError when the model has no chat template or the last message has no room. Older turns that have none are left out,
        which is said.

            print(model.chat([{"role": "user", "content": "Hello"}], max_tokens=64))
        """
        talk = self.conversation(messages, **options)
        for _ in talk.answer():
            pass
        if talk.left_out:
            say(f"{talk.left_out} oldest messages were left out: the model can see {self.language_model.max_length:,} tokens")
        return talk.last

    def log_probs(self, ids: Sequence[int]) -> LogProbs:
        """Score the tokens of one document from its beginning: natural logarithms, (T,). Raises UserError on an unknown id.

            model.log_probs(model.tokenizer.encode("Once upon a time")).sum()
        """
        size = self.language_model.vocab_size
        if unknown := [id for id in ids if not 0 <= id < size]:
            raise UserError(f"there is no token {unknown[0]}", f"ids from 0 to {size - 1}", "model.tokenizer.encode(text) gives them")
        return self.language_model.log_probs(ids)

    def fill(self, text: str, n: int = 5, max_pieces: int = 3) -> list[Filling]:
        """Fill the blanks of a text ([MASK], <mask>, ___), the `n` likeliest fillings first, by an encoder.

        Raises UserError where the model does not see both sides of a blank, or there is none.

            model.fill("The ___ of Denmark")[0].words
        """
        if not hasattr(self.model, "masked_log_probs"):
            raise UserError(f"{self.folder} is a model that reads from left to right", "an encoder, which sees both sides of a blank",
                            "make one with myna build --family encoder, or continue a text with myna generate")
        return fill_text(self.model, self.tokenizer, text, FillOptions(n, max_pieces))

    def transcribe(self, audio: str | Path, **options: Unpack[Transcribing]) -> Transcript:
        """Write down what is said in a recording of any length. Raises UserError when it cannot be read, or the model does not hear.

            transcript = model.transcribe("speech.wav")
            str(transcript), [(segment.start, segment.end, segment.text) for segment in transcript.segments]
        """
        self.check_hears()
        from myna.data.audio import read_audio
        from myna.tasks.transcribe import transcribe

        return transcribe(self.model, self.tokenizer, read_audio(Path(audio)), make(TranscribeOptions, dict(options)))

    def check_hears(self) -> None:
        """Raise UserError where the model is no speech model."""
        if not hasattr(self.model, "hear"):
            raise UserError(f"{self.folder} holds a model that does not hear ({type(self.model).__name__})", "a Whisper model",
                            "`myna fetch whisper-tiny` brings one")

    def classify(self, texts: Sequence[str], threshold: float | None = None) -> list[Classified]:
        """Give every text a label with its probability, or all labels from `threshold` on where a text may have several.

        Raises UserError where the model is no classifier, or a text is empty.

            [result] = myna.load("my-classifier").classify(["a fine book"])
            result.label, result.probability, result.probabilities
        """
        if not isinstance(self.model, Classifier):
            raise UserError(f"{self.folder} holds a model that gives no labels ({type(self.model).__name__})", "a classifier",
                            "myna tune new DATA --task classify --out DIR makes one")
        return self.model.classify([texts] if isinstance(texts, str) else texts, threshold)

    def tag(self, texts: str | Sequence[str | Sequence[str]], words: str | Path | None = None) -> list[TaggedText]:
        """Label the words of every text, or find the words where the model was made for that; a text may be given as a list of words.

        words: the directory of a tagger that finds the words of texts, where not the model itself. Raises UserError where the model is
        no tagger, or a text is empty.

            [result] = myna.load("my-tagger").tag(["我去咗香港"])
            [(word.text, word.tag, word.probability) for word in result.words], result.entities
        """
        if not isinstance(self.model, WordTagger):
            raise UserError(f"{self.folder} holds a model that labels no words ({type(self.model).__name__})", "a tagger",
                            "myna tune new DATA --task tag --out DIR makes one")
        finder = None if words is None else WordTagger.open(Path(words)).find_words
        return self.model.tag([texts] if isinstance(texts, str) else texts, finder)

    def summarize(self, text: str, *, max_tokens: int | None = None, num_beams: int = 1, beginning: bool = False,
                  sentences: int | None = None) -> Summary:
        """Make a short text of a long one, of any length: by a tuned decoder in chunks, or of the text's own sentences.

        max_tokens, num_beams: of a decoder, as many as it learned to write, and greedy. beginning: a decoder reads no more of the text
        than it learned from, as is best for news. sentences: of a directory that takes sentences out.
        Raises UserError when the text is empty, the model was not made for this, or does not read the option.

            summary = myna.load("my-summarizer").summarize("A long text. ...")
            str(summary), summary.method, summary.chunks
        """
        for name, value in (("max_tokens", max_tokens), ("num_beams", num_beams), ("sentences", sentences)):
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}", "a whole number, at least 1")
        if isinstance(self.model, Extractor):
            if max_tokens is not None or num_beams != 1 or beginning:
                raise UserError(f"a decoder's options for {self.folder}, which takes sentences out of the text", "sentences",
                                "leave them out")
            return (self.model if sentences is None else dataclasses.replace(self.model, sentences=sentences)).summarize(text)
        if sentences is not None:
            raise UserError(f"sentences for {self.folder}, which holds a decoder", "max_tokens", "leave it out")
        writer = Writer.open(self.folder, self.model, self.tokenizer, SUMMARIZE.task)
        return summarize_chunks(writer, text, max_tokens, num_beams, beginning)

    def translate(self, texts: str | Sequence[str], num_beams: int = 4, length_penalty: float = 1.0) -> list[Translated]:
        """Translate texts: of each the translation, its score, and the example it leans on. Raises UserError where it cannot.

            [result] = myna.load("my-translator").translate("Failed to connect to {host}")
            result.text, result.score, result.nearest
        """
        if not isinstance(self.model, Translator):
            raise UserError(f"{self.folder} holds a model that was not made to translate ({type(self.model).__name__})", "a translator",
                            "myna tune new PAIRS --task translate --out DIR makes one")
        return self.model.translate([texts] if isinstance(texts, str) else texts, TranslateOptions(num_beams, length_penalty))

    def answer(self, question: str, index: str | Path | None = None, documents: Paths = (), threshold: float | None = None,
               generate: str | Path | None = None) -> Answered:
        """Answer a question from an index, or from documents, with the sentence quoted, or say that they do not tell.

        threshold: the confidence from which to answer, where not the model's own. generate: a chat model that writes the answer from the
        passage quoted; what it says is looked up there. Raises UserError where the model is none for this, or there are no documents.

            answered = myna.load("my-reader").answer("who built the tower?", index="my-index")
            str(answered), answered.quote, answered.file, answered.line, answered.confidence
        """
        return self.answer_all([question], index, documents, threshold, generate)[0]

    def answer_all(self, questions: Sequence[str], index: str | Path | None = None, documents: Paths = (), threshold: float | None = None,
                   generate: str | Path | None = None) -> list[Answered]:
        """Answer several questions from one index or folder; see `answer`."""
        if not isinstance(self.model, Answerer):
            raise UserError(f"{self.folder} is no reader ({type(self.model).__name__})", "what was made with --task answer",
                            "myna tune new DATA --task answer --out DIR makes one")
        with open_documents(None if index is None else Path(index), _paths(documents)) as (opened, embed):
            answers = [self.model.answer(question, opened, embed, threshold) for question in questions]
        if generate is None:
            return answers
        speaker, background = load(generate), self.model.background
        return [answer_freely(one, background, lambda messages: str(speaker.chat(messages, max_tokens=64, temperature=0.0)))
                for one in answers]

    def search(self, query: str, k: int = 5, mode: Mode = "auto") -> list[Hit]:
        """Find the passages of an index that a query is about, the best first: by words, by vectors (dense), or both (hybrid).

        Raises UserError where the directory is no index, or has no vectors for the mode.

            [hit, *_] = myna.load("my-index").search("who built the tower?", k=3)
            hit.score, hit.file, hit.offset, hit.text
        """
        if not isinstance(self.model, Searcher):
            raise UserError(f"{self.folder} holds a model, which finds nothing ({type(self.model).__name__})", "an index of documents",
                            "myna index my-documents/ --out DIR makes one")
        return self.model.search(query, make(SearchOptions, {"k": k, "mode": mode}))

    def complete(self, code: str, **options: Unpack[Completing]) -> Completed:
        """Write the body of the Python function that is open at the end of `code`: its def line, or its docstring, is the last thing there.

        Raises UserError when no function is open there, or it does not fit the model.

            written = myna.load("my-completer").complete('def double(x):\n    \"\"\"Return x twice.\"\"\"')
            str(written), written.body, written.finish_reason
        """
        from myna.tasks.complete import complete_code

        return complete_code(self.language_model, self.tokenizer, code, make(CompleteOptions, dict(options)), self.rules)

    def evaluate(self, files: Paths, **options: Unpack[Measuring]) -> Report:
        """Measure the model on files, cleaned as a build cleans them, beside the baseline in its directory if there is one.

            print(model.evaluate("unseen.txt").metrics["bits_per_byte"])
        """
        from myna.evaluate.files import evaluate_files

        measuring = make(EvaluateOptions, dict(options))
        return evaluate_files(self.model, self.tokenizer, _paths(files), self.folder / "ngram", measuring)


def _paths(given: Paths) -> list[Path]:
    return [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]


def _sample_options(n: int | None, options: Sampling) -> SampleOptions:
    stop = options.get("stop", ())
    return make(SampleOptions, {**options, "stop": [stop] if isinstance(stop, str) else stop, "n": 1 if n is None else n})
