"""The metrics of tasks equal their references on random cases: sacrebleu, rouge-score, scikit-learn, seqeval."""

from __future__ import annotations

import random
import re
import string
from collections import Counter

import numpy as np
import pytest

from myna.metrics import answers, classification, ranking, summaries, tagging, translation

CASES = 1000
WORDS = ["the", "a", "Cat", "sat", "on", "mat", ".", ",", "3.14", "1,000", "e-mail", "2-3", "don't", "(so)", "{name}", "&amp;", "%", "x_y",
         "\n", "-\n", "打开", "设备", "。", "“好”", "ｱ", "，", "３", "é", "Ω", "👍", "𠀀", "‘", "—", "…", "☃", "㍿", "⼀", "<skipped>"]


def texts(seed: int, words: list[str] = WORDS, longest: int = 14) -> list[tuple[str, str]]:
    """Pairs of texts that share some of their words."""
    chosen = random.Random(seed)
    found = []
    for _ in range(CASES):
        one = [chosen.choice(words) for _ in range(chosen.randint(0, longest))]
        other = [word for word in one if chosen.random() < 0.7] + [chosen.choice(words) for _ in range(chosen.randint(0, 4))]
        joint = chosen.choice([" ", "", " "])
        found.append((joint.join(one), joint.join(other)))
    return found


@pytest.mark.parametrize(("name", "split"), [("13a", translation.split_words), ("zh", translation.split_chinese)])
def test_bleu_is_sacrebleus(name: str, split) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    metric = sacrebleu.metrics.BLEU(tokenize=name)
    pairs = texts(1)
    for at, (given, true) in enumerate(pairs):
        ours = translation.bleu(translation.count_bleu([given], [true], split).sum(0)[None])[0]
        assert ours == pytest.approx(metric.corpus_score([given], [[true]]).score, abs=1e-9), (at, given, true)
    given, true = (list(side) for side in zip(*pairs, strict=True))
    whole = translation.bleu(translation.count_bleu(given, true, split).sum(0)[None])[0]
    assert whole == pytest.approx(metric.corpus_score(given, [true]).score, abs=1e-9)


def test_chrf_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    metric, pairs = sacrebleu.metrics.CHRF(), texts(2)
    for given, true in pairs:
        ours = translation.chrf(translation.count_chrf([given], [true]).sum(0)[None])[0]
        assert ours == pytest.approx(metric.corpus_score([given], [[true]]).score, abs=1e-9), (given, true)
    given, true = (list(side) for side in zip(*pairs, strict=True))
    assert translation.chrf(translation.count_chrf(given, true).sum(0)[None])[0] == pytest.approx(metric.corpus_score(given, [true]).score)


def test_golden_bleu_and_chrf() -> None:
    """Values of sacrebleu 2.6.0: corpus_bleu and corpus_chrf of these two sentences, tokenize "13a"."""
    given, true = ["The cat sat on the mat.", "It is 3.14, isn't it?"], ["The cat is on the mat.", "It is 3.14, is it not?"]
    assert translation.bleu(translation.count_bleu(given, true, translation.split_words).sum(0)[None])[0] == pytest.approx(44.027240568)
    assert translation.chrf(translation.count_chrf(given, true).sum(0)[None])[0] == pytest.approx(66.101084401)


def test_rouge_is_rouge_scores() -> None:
    rouge = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge.RougeScorer(["rouge1", "rouge2", "rougeL"])
    words = ["the", "a", "Cat", "sat", "on", "mat", ".", "3.14", "e-mail", "don't", "x_y", "mats", "under", "it"]
    for given, true in texts(3, words, 30):
        wanted = scorer.score(true, given)
        ours = {"rouge1": summaries.rouge_n(given, true, 1), "rouge2": summaries.rouge_n(given, true, 2)}
        ours["rougeL"] = summaries.rouge_l(given, true)
        assert ours == pytest.approx({name: score.fmeasure for name, score in wanted.items()}), (given, true)


def test_rouge_of_chinese_is_rouge_scores_with_characters_as_words() -> None:
    rouge = pytest.importorskip("rouge_score.rouge_scorer")

    class Characters:
        def tokenize(self, text: str) -> list[str]:
            return re.findall("[a-z0-9]+|[一-鿿]", text.lower())

    scorer = rouge.RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Characters())
    for given, true in texts(4, ["今天", "天气", "很好", "abc ", "2026", "，", "。", "不", "是"], 20):
        wanted = scorer.score(true, given)
        assert summaries.rouge_n(given, true, 2) == pytest.approx(wanted["rouge2"].fmeasure), (given, true)
        assert summaries.rouge_l(given, true) == pytest.approx(wanted["rougeL"].fmeasure), (given, true)


@pytest.mark.parametrize("text", ["今天天气很好。", "这是３个测试，没有空格", "日本語のテキスト", "한국어", "Zürich café"])
def test_identical_texts_score_one(text: str) -> None:
    longer = f"{text} " * 4  # BLEU wants four words
    assert summaries.rouge_n(text, text, 1) == summaries.rouge_n(text, text, 2) == summaries.rouge_l(text, text) == 1
    assert answers.answer_exact(text, [text]) == answers.answer_f1(text, [text]) == 1
    assert translation.chrf(translation.count_chrf([text], [text]).sum(0)[None])[0] == pytest.approx(100)
    assert translation.bleu(translation.count_bleu([longer], [longer], translation.split_chinese).sum(0)[None])[0] > 99.9


def test_the_longest_common_subsequence_is_the_tables() -> None:
    def by_table(one: list[str], other: list[str]) -> int:
        row = [0] * (len(other) + 1)
        for word in one:
            before = row[:]
            for at, against in enumerate(other, start=1):
                row[at] = before[at - 1] + 1 if word == against else max(row[at - 1], before[at])
        return row[-1]

    chosen = random.Random(5)
    for _ in range(CASES):
        one, other = ([chosen.choice("abcde") for _ in range(chosen.randint(0, 90))] for _ in range(2))
        assert summaries.common_subsequence(one, other) == by_table(one, other)


def test_ranking_is_scikit_learns_and_the_definition() -> None:
    learn = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(7)
    for _ in range(CASES):
        size, k = int(generator.integers(2, 10)), int(generator.integers(1, 10))
        names = [f"d{number}" for number in range(size)]
        order = generator.permutation(size)
        ranked = [names[number] for number in order]
        gains = generator.integers(0, 3, size)
        scores = np.empty(size)
        scores[order] = np.arange(size, 0, -1)
        ours = ranking.discounted_gain(ranked, dict(zip(names, gains.tolist(), strict=True)), k)
        assert ours == pytest.approx(learn.ndcg_score(gains[None], scores[None], k=k))
        relevant = {name for name, gain in zip(names, gains, strict=True) if gain}
        if relevant:
            hits = [name in relevant for name in ranked]
            assert ranking.recall_at(ranked, relevant, k) == sum(hits[:k]) / len(relevant)
            assert ranking.reciprocal_rank(ranked, relevant) == 1 / (hits.index(True) + 1)
    assert ranking.recall_at(["a"], set(), 3) == ranking.reciprocal_rank(["a"], set()) == ranking.discounted_gain(["a"], {}, 3) == 0
    assert ranking.reciprocal_rank(["a", "b"], {"b"}, 1) == 0


def test_answers_are_squads() -> None:
    def normalize(text: str) -> list[str]:
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    def f1(given: list[str], true: list[str]) -> float:
        shared = sum((Counter(given) & Counter(true)).values())
        if not given or not true:
            return float(given == true)
        return 2 * shared / (len(given) + len(true))

    for given, true in texts(8, ["the", "a", "Cat", "sat.", "an", "$5", "1,000", "e-mail", "U.S.", "don't", "(so)", "`x`", "~"]):
        assert answers.answer_exact(given, [true]) == float(normalize(given) == normalize(true)), (given, true)
        assert answers.answer_f1(given, [true]) == pytest.approx(f1(normalize(given), normalize(true)))
    assert answers.answer_f1("1066年", ["公元1066年", "1066 年"]) == 1 and answers.answer_f1("北京", ["北京市"]) == pytest.approx(0.8)
    assert answers.answer_f1("", [""]) == 1 and answers.answer_f1("x", [""]) == 0 and answers.answer_f1("x", []) == 0


def test_spans_are_seqevals() -> None:
    seqeval = pytest.importorskip("seqeval.metrics.sequence_labeling")
    chosen = random.Random(9)
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    sides: list[list[list[str]]] = [[], []]
    for _ in range(CASES):
        length = chosen.randint(1, 10)
        for side in sides:
            side.append([chosen.choice(tags) for _ in range(length)])
        for side in sides:
            assert tagging.spans_of(side[-1]) == [(kind, start, end + 1) for kind, start, end in seqeval.get_entities(side[-1])], side[-1]
    counted = tagging.count_spans(*sides).sum(0)[None]
    assert classification.micro_f1(counted)[0] == pytest.approx(seqeval.f1_score(*sides))


def test_word_spans_score_a_segmentation() -> None:
    assert tagging.word_spans(["今天", "好"]) == [("word", 0, 2), ("word", 2, 3)]
