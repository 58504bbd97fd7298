"""Find a file's encoding and decode it as a stream, losing nothing at the edges of chunks.

ASCII is passed on at once; the decision is made at the first byte that is not ASCII, from a bounded sample. Valid UTF-8
wins; else GB18030, Big5 and Windows-1252 are scored by how plausible their text is (common Chinese characters by the
frequency levels built into GB 2312 and Big5; isolated accented letters for Windows-1252), and `charset-normalizer` is
asked when none is. Undecodable bytes are marked, never guessed.

A file put together from UTF-8 and from GB18030 (or Big5) files is read line by line, each line in its own encoding. It is
recognised by the sample, or later by a stretch that the encoding chosen does not decode.

    decoder = Decoder(sample=lambda: b"")
    for piece in decoder.decode([b"caf\\xc3", b"\\xa9\\n"]):
        print(piece.text, decoder.encoding)
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from myna.corpus.piece import BAD_BYTES, Piece, width
from myna.errors import UserError

SAMPLE_BYTES = 1 << 20  # what a decision may look at; charset statistics settle within a few KB
_MAX_CONTROL = 0.05  # a larger share of control bytes is no text: random bytes have 11 %, text with stray NULs far less
_PLAUSIBLE = 0.6  # a score below asks charset-normalizer: real Chinese scores above 0.8, Korean read as GB18030 about 0.4
_LONG = 400  # bytes above ASCII from which charset-normalizer's statistics are worth asking
_SHARE = 0.02  # of the lines beyond ASCII, from which an encoding counts as mixed in; a chance line of the other kind is one in 10,000
_STRETCH = 65536  # bytes looked at together for a second encoding that begins late
_JUDGED = 500  # lines of a stretch whose reading is weighed
_HOLD = 4096  # characters looked back over for a safe place to cut a line longer than a chunk
# Single- and double-byte codecs whose every decoded character encodes back to as many bytes (tried exhaustively).
_OTHERS = frozenset({
    "cp932", "shift_jis", "euc_jp", "cp949", "euc_kr", "koi8_r", "koi8_u", "cp866", "cp874", "tis_620", "cp1250", "cp1251", "cp1253",
    "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "iso8859_2", "iso8859_5", "iso8859_7", "iso8859_9"})
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_BINARY_MAGIC = {
    b"%PDF": "a PDF", b"PK\x03\x04": "a zip archive", b"\x7fELF": "a program", b"\x89PNG": "an image", b"\xff\xd8\xff": "an image",
    b"GIF8": "an image", b"\xd0\xcf\x11\xe0": "an old Office document", b"Rar!": "a rar archive", b"7z\xbc\xaf": "a 7z archive",
    b"{\\rtf": "an RTF document", b"SQLite format 3\0": "a database",
    b"\x28\xb5\x2f\xfd": "compressed twice", b"\x1f\x8b": "compressed twice", b"\xfd7zXZ\0": "compressed twice",
}
_CHINESE = ("gb18030", "big5hkscs")
_HIGH_RUNS = re.compile(rb"[\x80-\xff]+")
_WIDE_USUAL = re.compile("[\t\r\n\x20-\u024f\u2010-\u2026\u3000-\u30ff\uff00-\uffef]")
_WESTERN_SIGNS = b"\x80\x82\x84\x85\x91\x92\x93\x94\x95\x96\x97\x99\x9c\xa0\xa1\xa3\xa7\xa9\xab\xae\xb0\xb7\xbb\xbf"
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
# The most frequent characters of simplified and traditional Chinese text: with the level of a character they tell a right
# reading from a wrong one even in a few words.
_COMMON = frozenset(
    "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方成者多日都三小军二无同么"
    "经法当起与好看学进种将还分此心前面又定见只主没公从今回很已最但现手名点文明实想意力开长把身动样机本间外情问题部间理由因美正新她它给让被比等全女高老山水"
    "気東西南北市县省路号先业体工化电使表相性向头重物反报平信利常应员义建民第次入加月知海门話這為來個們時說國會對裡過發經當與學進種將還沒從後現點實開長樣機"
    "間動問題體業電應員義認該話給讓錯誤請謝聲書車馬風飛魚鳥龍語請愛樂買賣東區縣號這那什麼怎您吧吗呢啊哦嗎走吃喝爱乐书车马风飞鱼龙语请谢声边连通听写读难白色"
    "世界政府社科技安全关系服务提供管理研究发展经济文化历史問歷濟務關係總統选择選擇活動參參与與使用者資料網站网络電腦电脑手机機版權权本期待"
)


def is_binary(head: bytes) -> str:
    """Say why these first bytes are not text, or return ''."""
    for magic, name in _BINARY_MAGIC.items():
        if head.startswith(magic):
            return name
    if len(head) > 262 and head[257:262] == b"ustar":
        return "a tar archive"
    if sniff_wide(head):
        return ""
    if sum(map(head.count, _CONTROL_BYTES)) > max(1, _MAX_CONTROL * len(head)):
        return "binary data"
    return ""


_CONTROL_BYTES = [bytes([byte]) for byte in range(32) if byte not in b"\t\n\r\f\v\x1b\x1a"] + [b"\x7f"]


def sniff_wide(head: bytes) -> str:
    """Recognise UTF-16 by its byte-order mark or, without one, by where the NUL bytes of ASCII lie; '' if neither."""
    for bom, name in _BOMS[1:]:
        if head.startswith(bom) and not head.startswith(b"\xff\xfe\0\0"):
            return name
    even = len(head) // 2 * 2
    if even < 4:
        return ""
    for name, high in (("utf-16-le", 1), ("utf-16-be", 0)):
        nul, other = head[high:even:2].count(0), head[1 - high:even:2].count(0)
        if nul and not other and _wide_score(head[:even], name) > 0.6:
            return name
    if not head.isascii() and not _mostly_utf8(head):  # Chinese without a byte-order mark may hold no NUL at all
        for name in ("utf-16-le", "utf-16-be"):
            if _wide_score(head[:even], name) > 0.7:
                return name
    return ""


def _wide_score(data: bytes, codec: str) -> float:
    """Score 0 to 1 how much `data` reads as UTF-16: 1 for Latin, kana, punctuation and frequent Han, 0.5 for other Han, 0 for the rest."""
    try:
        text = codecs.getincrementaldecoder(codec)().decode(data)
    except UnicodeDecodeError:
        return 0.0
    good = sum(1 for c in text if c in _COMMON or _WIDE_USUAL.match(c))
    return (good + 0.5 * sum(1 for c in _HAN.findall(text) if c not in _COMMON)) / len(text)


def detect(sample: bytes) -> str:
    """Choose the codec for bytes that are not plain ASCII; the same bytes always give the same answer."""
    if _mostly_utf8(sample):
        return "utf-8"
    scores = {codec: score for codec in _CHINESE if (score := _chinese_score(sample, codec)) > 0}
    scores["cp1252"] = _western_score(sample)
    best = max(scores, key=lambda codec: scores[codec])
    if scores[best] < _PLAUSIBLE and sum(map(len, _HIGH_RUNS.findall(sample))) >= _LONG:
        return _ask_charset_normalizer(sample) or best
    return best


def _mostly_utf8(sample: bytes) -> bool:
    """Judge UTF-8: well-formed sequences far outweigh bad bytes.

    In GB18030 text one character in five happens to form a sequence of two bytes, but almost none forms one of three.
    """
    engine = codecs.getincrementaldecoder("utf-8")("ignore")
    text = engine.decode(sample)
    bad = len(sample) - len(text.encode("utf-8")) - len(engine.getstate()[0])  # a sequence cut at the end is not an error
    short, long = (len(pattern.findall(text)) for pattern in _UTF8_KINDS)
    return short + 3 * long > 4 * bad


_UTF8_KINDS = [re.compile(c) for c in ("[\x80-\u07ff]", "[\u0800-\ud7ff\ue000-\U0010ffff]")]


def _sort_lines(data: bytes) -> tuple[int, int, list[bytes]]:
    """Count the lines beyond ASCII and those surely UTF-8 (valid, with a sequence of three bytes or more); list the invalid ones."""
    total = valid = 0
    invalid = []
    for line in data.split(b"\n"):
        if not line.isascii():
            total += 1
            try:
                valid += _UTF8_KINDS[1].search(line.decode("utf-8")) is not None
            except UnicodeDecodeError:
                invalid.append(line)
    return total, valid, invalid


def _chinese_lines(invalid: list[bytes]) -> tuple[str, float]:
    """Choose the Chinese encoding of lines that are not UTF-8, with the number of lines that it decodes; '' when it is not plausible."""
    judged = invalid[::len(invalid) // _JUDGED + 1]
    lines = [line for line in judged if not _mostly_utf8(line + b"\n")]
    text = b"\n".join(lines)[:_STRETCH]
    if sum(map(len, _HIGH_RUNS.findall(text))) < 6:  # three characters tell Chinese from stray bytes
        return "", 0.0
    score, codec = max((_chinese_score(text, codec), codec) for codec in _CHINESE)
    if score < max(_PLAUSIBLE, _western_score(text)):
        return "", 0.0
    return codec, sum("\ufffd" not in line.decode(codec, "replace") for line in lines) * len(invalid) / len(judged)


def find_second(data: bytes, codec: str = "") -> str:
    """Name the Chinese encoding that shares these lines with UTF-8, or return ''.

    codec: the one encoding that the file was taken to be in; then lines of the other kind are enough.
    """
    total, valid, invalid = _sort_lines(data)
    if codec in _CHINESE:
        return codec if valid and valid >= _SHARE * total else ""
    if not invalid or (not codec and (not valid or valid < _SHARE * total)):
        return ""
    second, count = _chinese_lines(invalid)
    return second if count and count >= _SHARE * total else ""


def _line_codec(line: bytes, second: str) -> str:
    """Choose between UTF-8 and `second` for one line of a mixed file."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return "utf-8" if _mostly_utf8(line + b"\n") else second
    if _UTF8_KINDS[1].search(text) or max(map(len, _HIGH_RUNS.findall(line))) < 4:
        return "utf-8"
    # Only sequences of two bytes, as in Cyrillic: a few frequent Chinese characters may look the same.
    return second if _chinese_score(line, second) >= _PLAUSIBLE else "utf-8"


def _chinese_score(sample: bytes, codec: str) -> float:
    """Score 0 to 1 how much `sample` reads as Chinese: 1 a frequent character or punctuation, 0.4 a common one, 0 a rare one."""
    text = codecs.getincrementaldecoder(codec)(BAD_BYTES).decode(sample)
    points = total = 0.0
    for character in re.findall("[^\0-\x7f]", text):
        total += 1
        if character in _COMMON:
            points += 1
        elif not ("\udc00" <= character <= "\udcff"):
            points += _level(character.encode(codec, "replace"), codec)  # Big5 has four codes of two characters
        else:
            points -= 1  # a wrong reading breaks off often
    return points / total if total else 0.0


def _level(code: bytes, codec: str) -> float:
    """Weigh a character by its row: GB 2312 rows 16-55 and Big5 0xA4-0xC6 hold the common characters, rows before them punctuation."""
    if len(code) != 2:
        return 0.0
    lead, trail = code
    if codec == "gb18030":
        if trail < 0xA1:
            return 0.0
        return 0.4 if 0xB0 <= lead <= 0xD7 else 0.8 if lead in (0xA1, 0xA3) else 0.0
    return 0.4 if 0xA4 <= lead <= 0xC6 else 0.8 if lead in (0xA1, 0xA2) else 0.0


def _western_score(sample: bytes) -> float:
    """Score 0 to 1 how much `sample` reads as Windows-1252: high bytes alone or in pairs, mostly letters or typographic signs."""
    runs = _HIGH_RUNS.findall(sample)
    total = sum(len(run) for run in runs)
    usual = sum(1 for run in runs if len(run) <= 2 for byte in run if byte >= 0xC0 or byte in _WESTERN_SIGNS)
    return 0.9 * usual / total if total else 0.0


def _ask_charset_normalizer(sample: bytes) -> str:
    from charset_normalizer import from_bytes

    match = from_bytes(sample[:65536]).best()
    name = codecs.lookup(match.encoding).name.replace("-", "_") if match else ""
    return {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "cp950": "big5hkscs", "iso8859_1": "cp1252"}.get(
        name, name if name in _OTHERS else "")


def known_codec(name: str) -> str:
    """Turn a user's encoding name into the codec used for it. Raises UserError for one that cannot be read here."""
    usual = {"utf-8": "utf-8", "utf-8-sig": "utf-8", "ascii": "utf-8", "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030",
             "big5": "big5hkscs", "cp950": "big5hkscs", "big5hkscs": "big5hkscs", "iso8859-1": "cp1252", "cp1252": "cp1252",
             "utf-16-le": "utf-16-le", "utf-16-be": "utf-16-be"}
    try:
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        found = ""
    if found in usual:
        return usual[found]
    if found.replace("-", "_") in _OTHERS:
        return found
    raise UserError(f"unknown encoding {name!r}", "one of " + ", ".join(sorted({*usual, *_OTHERS})), "or leave it out to detect it")


class Decoder:
    """Decodes a stream of bytes into pieces that end after a newline wherever there is one.

    sample: called once at the first byte beyond ASCII, returns more bytes of the file (from places spread over it).
    encoding: fixes the codec; '' detects it. mixed: allow two encodings, in different pieces ("utf-8 + gb18030").
    """

    def __init__(self, sample: Callable[[], bytes] | None = None, encoding: str = "", mixed: bool = True) -> None:
        self.sample = sample
        self.encoding = encoding
        self.mixed = mixed and not encoding
        self.lines: Counter[str] = Counter()  # of a mixed file: lines beyond ASCII by encoding, from where the mixture was noticed
        self.read = 0  # bytes taken in
        self.bom = 0  # bytes of a byte-order mark, which give no text
        self._engine: codecs.IncrementalDecoder | None = None
        self._second = ""

    def decode(self, chunks: Iterable[bytes]) -> Iterator[Piece]:
        """Yield pieces in order; their sizes and `bom` add up to the bytes read."""
        held, offset = "", -1
        chunks = iter(chunks)
        for chunk in chunks:
            if offset < 0:
                chunk = self._begin(chunk)
                offset = self.bom
            self.read += len(chunk)
            new, rest = self._feed(chunk)
            text = held + new
            if self._second:
                if self._engine is None:  # nothing but ASCII so far
                    rest, text = text.encode("ascii") + rest, ""
                if text:
                    yield Piece.verbatim(text, offset, self._codec())
                self.encoding = f"utf-8 + {self._second}"
                yield from self._decode_lines(rest, chunks)
                return
            cut = _safe_cut(text)
            if cut:
                held, text = text[cut:], text[:cut]
                end = self.read - self._waiting() - width(held, self._codec())
                yield Piece.verbatim(text, offset, self._codec())
                offset = end
            else:
                held = text
        if self._engine is not None:
            self._engine.errors = BAD_BYTES
            held += self._engine.decode(b"", True)
        if held:
            yield Piece.verbatim(held, offset, self._codec())

    def _begin(self, chunk: bytes) -> bytes:
        for bom, name in _BOMS:
            if chunk.startswith(bom) and not self.encoding.startswith(("gb", "big", "cp")):
                self.bom = self.read = len(bom)
                self._use(name)
                return chunk[len(bom):]
        if self.encoding or (wide := sniff_wide(chunk[:65536])):
            self._use(self.encoding or wide)
        return chunk

    def _use(self, codec: str) -> None:
        self.encoding = codec
        self.mixed = self.mixed and (codec == "utf-8" or codec in _CHINESE)
        self._engine = codecs.getincrementaldecoder(codec)("strict" if self.mixed else BAD_BYTES)

    def _codec(self) -> str:
        return self.encoding or "utf-8"

    def _feed(self, chunk: bytes) -> tuple[str, bytes]:
        """Decode a chunk. Once a second encoding is found, the bytes returned are left for reading line by line."""
        if self._engine is None:
            if chunk.isascii():
                return chunk.decode("ascii"), b""
            first = _HIGH_RUNS.search(chunk)
            begin = max(0, (first.start() if first else 0) - 64)
            head, more = chunk[begin:begin + SAMPLE_BYTES], self.sample() if self.sample else b""
            if self.mixed and (second := find_second(head + b"\n" + more)):
                self._second = second
                return "", chunk
            self._use(detect(head + more))
        assert self._engine is not None
        if not self.mixed:
            return self._engine.decode(chunk), b""
        state = self._engine.getstate()
        try:
            return self._engine.decode(chunk), b""
        except UnicodeDecodeError:
            pass
        line = chunk.find(b"\n") + 1  # the line that is open stays in the encoding that it began in
        stretches = (chunk[at:at + _STRETCH] for at in range(line, len(chunk), _STRETCH)) if line else ()
        self._second = next(filter(None, (find_second(stretch, self.encoding) for stretch in stretches)), "")
        line = line if self._second else len(chunk)
        self._engine.setstate(state)
        self._engine.errors = BAD_BYTES
        text = self._engine.decode(chunk[:line])
        self._engine.errors = "strict"
        return text, chunk[line:]

    def _waiting(self) -> int:
        """Count the bytes of a character that is not yet complete."""
        return len(self._engine.getstate()[0]) if self._engine is not None else 0

    def _decode_lines(self, data: bytes, chunks: Iterator[bytes]) -> Iterator[Piece]:
        """Decode `data`, the last bytes read, and the chunks after it, each line in its own encoding."""
        offset = self.read - len(data)
        codec = ""  # of the line that is open, when part of it was passed on
        for chunk in itertools.chain([b""], chunks):
            self.read += len(chunk)
            data += chunk
            if end := data.rfind(b"\n") + 1:
                yield from self._runs(data[:end], offset, codec)
                offset, data, codec = offset + end, data[end:], ""
            if len(data) >= _HOLD * 16:
                codec = codec or _line_codec(data, self._second)
                text = codecs.getincrementaldecoder(codec)(BAD_BYTES).decode(data)
                if cut := _safe_cut(text):
                    yield Piece.verbatim(text[:cut], offset, codec)
                    size = width(text[:cut], codec)
                    offset, data = offset + size, data[size:]
        if data:
            yield from self._runs(data, offset, codec)

    def _runs(self, data: bytes, offset: int, first: str) -> Iterator[Piece]:
        """Yield the lines in `data`, which lies at `offset`: one piece for neighbours in one encoding. `first`: that of the first line."""
        start = at = 0
        codec = ""
        while at < len(data):
            end = data.find(b"\n", at) + 1 or len(data)
            line = data[at:end]
            if not line.isascii() or first:
                found = first or _line_codec(line, self._second)
                self.lines[found] += 1
                if codec and found != codec:
                    yield Piece.verbatim(data[start:at].decode(codec, BAD_BYTES), offset + start, codec)
                    start = at
                codec, first = found, ""
            at = end
        codec = codec or "utf-8"
        yield Piece.verbatim(data[start:].decode(codec, BAD_BYTES), offset + start, codec)


def _safe_cut(text: str) -> int:
    """Find where `text` may be cut so that neither a line end nor a character with its marks is split; 0 if nowhere yet."""
    cut = text.rfind("\n") + 1
    if cut or len(text) < _HOLD * 16:
        return cut
    for at in range(len(text) - 1, len(text) - _HOLD, -1):  # a very long line: before a character that never joins the one before
        if "\x20" <= text[at] < "\x7f" or "\u3400" <= text[at] <= "\u9fff":
            return at
    return len(text) - 1
