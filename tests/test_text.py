"""Text to tokens: what folds, what separates, what holds together; and the same in the compiled core."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dspex import reference
from dspex.reference import Token, fold, ngrams, tokens
from reference_tools import TEXT_OPTIONS, assert_same_features, compiled, hashes_of, model_of, text_options

NO_NGRAMS = text_options(min_n=16, max_n=16, bigram_weight=0.0)


def compiled_tokens(text: str) -> list[str]:
    """What the compiled core finds, by a model that knows every token the oracle finds."""
    model = model_of(hashes_of([(0, text)], NO_NGRAMS), columns=1, options=NO_NGRAMS)
    return [each[1] for each in compiled(model)._contributions(text, 0)]


TOKENS: list[tuple[str, str]] = [
    ("", ""),
    (" \t\n\r\0\x1f\x7f\x85\u00a0\u2028\u3000", ""),
    ("I lost my Card", "i lost my card"),
    ("CARD_lost x2", "card_lost x2"),
    # Accents, case and compatibility forms go.
    ("Ärger ÉCOLE naïve Łódź", "arger ecole naive łodz"),
    ("Straße STRASSE ﬁn ﬆ Ⅷ ①", "strasse strasse fin st viii 1"),
    ("ＦＵＬＬ　ｗｉｄｔｈ ½ x²", "full width 1 ⁄ 2 x2"),
    ("ΣΊΣΥΦΟΣ σίσυφος", "σισυφοσ σισυφοσ"),
    ("İstanbul Ǆ", "istanbul dz"),
    # Apostrophes hold a word together only between its letters.
    ("don't DON’T donʼt rock'n'roll", "don't don't don't rock'n'roll"),
    ("'tis cats' 'quoted' ' ''", "' tis cats ' ' quoted ' ' ''"),
    ("don''t a'", "don '' t a '"),
    ("'", "'"),
    ("d'\u0301t x'1 x'_ '\u200da", "d't x'1 x'_ ' a"),
    # Runs of one symbol are kept to three, different symbols apart.
    ("hi!!!!! :-) ... €5", "hi !!! : - ) ... € 5"),
    ("a,b;c", "a , b ; c"),
    ("!!?!", "!! ? !"),
    # Scripts without blanks: one token an ideograph or hiragana, katakana and hangul words.
    ("我丢了银行卡", "我 丢 了 银 行 卡"),
    ("カードを失くした", "カート\u3099 を 失 く し た"),
    ("が ﾊﾞｽ", "か\u3099 ハ\u3099ス"),
    ("카드", unicodedata.normalize("NFD", "카드")),
    ("บัตรหาย", "บัตรหาย"),
    ("हिन्दी क़लम", "हिन्दी क\u093cलम"),
    ("كِتَابٌ כָּשֵׁר", "كتاب כשר"),
    ("ـكـتاب", "كتاب"),
    # Emoji: skin tones, variation selectors and joiners go.
    ("👍🏽👍❤️", "👍👍 ❤"),
    ("👩\u200d💻", "👩 💻"),
    ("🇩🇪", "🇩 🇪"),
    ("1️⃣", "1\u20e3"),
    # Format controls, lone surrogates, private use, marks without a base.
    ("so\u00adft zero\u200bwidth \ufeffbom", "soft zerowidth bom"),
    ("\ud83d\ude00", "\ud83d \ude00"),
    ("\ud800\ud800\ud800\ud800", "\ud800\ud800\ud800"),
    ("\ue000 \U0010ffff", "\ue000 \U0010ffff"),
    ("\u0301\u0301", ""),
    ("\u0e31 !\u20e3!!!", "\u0e31 !\u20e3!"),
]


@pytest.mark.parametrize(("text", "expected"), TOKENS, ids=[ascii(text) for text, _ in TOKENS])
def test_tokens(text: str, expected: str) -> None:
    assert [token.text for token in tokens(text)] == expected.split(" ") * (expected != "")
    assert compiled_tokens(text) == [token.text for token in tokens(text)]


def test_kinds_of_tokens() -> None:
    expected = [Token("ab", "word"), Token("か\u3099", "ideograph"), Token("!!", "symbol")]
    assert tokens("Ab が !!") == expected


@pytest.mark.parametrize("char", ["x", "é", "ж", "𝒳", "\u0e31"])
def test_long_words_are_cut(char: str) -> None:
    assert [len(t.text) for t in tokens(char * 150)] == [64, 64, 22]
    assert compiled_tokens(char * 150) == [t.text for t in tokens(char * 150)]


def test_long_runs_of_marks_are_cut() -> None:
    mark = "\u0e31"
    for text in ("界" + mark * 100, "!" + mark * 100 + "!!!!", "a" * 64 + "'" + "b" * 64, "a" * 63 + "'b"):
        assert all(len(t.text) <= 64 for t in tokens(text))
        assert compiled_tokens(text) == [t.text for t in tokens(text)]


def test_ngrams_of_a_word() -> None:
    assert ngrams("ab", 2, 5) == [" a", "ab", "b ", " ab", "ab ", " ab "]
    assert ngrams("é", 1, 2) == [" ", "é", " ", " é", "é "]
    assert ngrams("a", 4, 5) == []
    for word in ("ab", "é", "𝒳日本x"):
        for low, high in ((1, 1), (2, 5), (3, 3), (1, 16)):
            options = text_options(min_n=low, max_n=high)
            model = model_of(hashes_of([(0, word)], options, known=False), options=options)
            assert_same_features(model, word)


def test_only_words_are_spelled_by_ngrams() -> None:
    spelled = {u.text: len(u.spelled) for u in reference.units("ab !! 界", 0, TEXT_OPTIONS)}
    assert spelled == {"ab": 6, "!!": 0, "ab !!": 0, "界": 0, "!! 界": 0}


# ----------------------------------------------------------------------------------------- all of Unicode


# CJK, Hangul, cuneiform and hieroglyphs, Tangut, ideographs of the higher planes: thousands of a kind.
UNIFORM = ((0x3400, 0xA4D0), (0xAC00, 0xD7A4), (0x12000, 0x1B000), (0x20000, 0xE0000))


def many_code_points() -> list[int]:
    """All code points that Unicode gives a meaning, and a sample of the rest and of the uniform blocks."""
    codes = []
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        uniform = any(low <= code < high for low, high in UNIFORM) or unicodedata.category(char) in (
            "Cn",
            "Co",
        )
        if not uniform or code % 61 == 0 or unicodedata.decomposition(char):
            codes.append(code)
    return codes


def test_every_code_point_folds_as_defined() -> None:
    codes = many_code_points()
    assert len(codes) > 30_000
    for start in range(0, len(codes), 4096):
        # Between blanks, and between letters: where it separates, joins or stands alone.
        text = " ".join(f"{chr(c)} a{chr(c)}b" for c in codes[start : start + 4096])
        assert compiled_tokens(text) == [token.text for token in tokens(text)]


def test_normal_forms_of_every_code_point_are_the_same_to_us() -> None:
    for code in many_code_points():
        char = chr(code)
        if unicodedata.decomposition(char) and not 0xD800 <= code < 0xE000:
            forms = {unicodedata.normalize(form, char) for form in ("NFC", "NFD", "NFKC", "NFKD")} | {char}
            assert len({fold(form) for form in forms - {"ʼn"}}) == 1, hex(code)


def test_case_of_every_code_point_is_the_same_to_us() -> None:
    cased = [c for c in map(chr, range(sys.maxunicode + 1)) if c.upper() != c or c.lower() != c]
    differ = {c for c in cased if len({fold(c), fold(c.upper()), fold(c.lower())}) > 1}
    # Unicode's own exceptions: a dotless i is no i until it is a capital; ŉ is n only as a capital.
    assert differ == {"ı", "ŉ"}


# -------------------------------------------------------------------------------------- any text at all

ALPHABETS = [
    "abcXYZ éÉßſıİœﬁ0½_",
    "''’ʼ a'b!?.-\"",
    " \t\n\0\x85\u200b\u200d\ufeff\u00ad",
    "\u0300\u0301\u0308\u0327\u0345\u093c\u094d\u3099\u0e31\u0e48\u05b8\u0651\u20e3\u1dff",
    "กาำเข้าใจ लमी क़्षि বাং తెలుగు សួស្ដី བོད་ སිංහල",
    "كِتابـ۱ עִבְרִית",
    "界漢字㐀𠀀ひらがなカタカナﾊﾞー々〆〇",
    "한국어ᄒ\u1161\u11abㅎ가각",
    "👍🏽👩\u200d💻❤️🇩🇪1️⃣#️⃣☺",
    "ΑΣς ЖЁё ԱՒև ᲓႠ ᏣꭰǅĲ",
    "\ud800\udc00\udfff\ue000\U000f0000\U0010ffff\uffff",
]
strange = st.text(st.one_of([st.sampled_from(alphabet) for alphabet in ALPHABETS]), max_size=40)
runs = st.tuples(st.sampled_from("".join(ALPHABETS)), st.integers(60, 200)).map(lambda run: run[0] * run[1])
parts = st.one_of(strange, strange, st.text(st.characters(), max_size=20), runs)
anything = st.lists(parts, max_size=4).map("".join)


@settings(deadline=None, max_examples=400)
@given(anything, st.booleans())
@example("don't" * 40, True)
@example("'" * 200, True)
@example("!\u0e31" * 100, True)
def test_any_text_gives_the_tokens_and_pairs_defined(text: str, skips: bool) -> None:
    options = text_options(skip_weight=0.5 if skips else 0.0)
    assert_same_features(model_of(hashes_of([(0, text)], options), options=options), text)


ascii_parts = st.one_of(
    st.text(st.sampled_from("abcXYZ019_'' .,!!\t\0\x7f"), max_size=130),
    st.tuples(st.sampled_from("a'! _"), st.integers(1, 200)).map(lambda run: run[0] * run[1]),
    st.sampled_from(["a" * 63 + "'b", "a" * 64 + "'" + "b" * 63, "x" * 1020, "'" * 64 + "b'c"]),
)
ascii_texts = st.lists(ascii_parts, max_size=4).map("".join)


@settings(deadline=None, max_examples=300)
@given(ascii_texts)
@example("x" * 1024)
@example("a'" * 512)
@example("a'" * 512 + "b")
@example("!" * 1023 + "a")
def test_ascii_takes_a_short_cut_to_the_same_tokens(text: str) -> None:
    model = model_of(hashes_of([(0, text)], TEXT_OPTIONS))
    assert_same_features(model, text)
    # The same text on the general path: as two-byte characters, and with one more character than ASCII has.
    wide = compiled(model)._contributions(text + " 界", 0)
    assert wide == compiled(model)._contributions(text, 0) == compiled(model)._contributions(text + " ß", 0)


@settings(deadline=None, max_examples=200)
@given(st.one_of(anything, ascii_texts), st.integers(1, 4), st.integers(0, 6))
def test_any_unknown_word_is_spelled_by_its_ngrams(text: str, low: int, more: int) -> None:
    options = text_options(min_n=low, max_n=low + more)
    assert_same_features(model_of(hashes_of([(0, text)], options, known=False), options=options), text)


def canonically(text: str) -> str:
    """Marks in canonical order: folding takes one code point at a time, and leaves their order."""
    return unicodedata.normalize("NFD", text)


@settings(deadline=None, max_examples=300)
@given(anything.filter(lambda text: "\u0345" not in unicodedata.normalize("NFD", text)))
def test_folding_code_points_is_folding_the_text(text: str) -> None:
    text = text.replace("\u2019", "'").replace("\u02bc", "'")
    whole = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    kept = "".join(c for c in whole if not reference._is_dropped(c))
    assert canonically(fold(text)) == canonically(kept)


@settings(deadline=None, max_examples=300)
@given(anything)
def test_normal_forms_and_case_of_a_text_do_not_matter(text: str) -> None:
    text = text.translate(dict.fromkeys(map(ord, "ıŉ\u0345")))
    truth = canonically(fold(text))
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert canonically(fold(unicodedata.normalize(form, text))) == truth
    assert canonically(fold(text.upper())) == truth
    assert canonically(fold(text.lower())) == truth
