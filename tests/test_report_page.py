"""The report as one HTML page: sound, self-contained, and safe whatever the traces hold."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from dspex.distill.report import facts, page, write_page
from dspex.distill.report.words import visible
from report_tools import HOSTILE, NOW, add_traces, add_version, certificate, open_home, served_home

VOID = {"meta", "link", "br", "wbr", "input", "img"}
SECTIONS = ["guaranteed", "coverage", "saved", "classes", "boundary", "watch", "drift", "versions", "log"]


class Reader(HTMLParser):
    """Reads a page; every tag has to be closed where it should be, every id to be there once."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.tags, self.targets, self.words, self.named = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        assert set(self.named) <= set(self.ids)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        if "id" in given:
            self.ids.append(given["id"])
        self.named += given.get("aria-labelledby", "").split()
        self.named += [given["href"][1:]] if given.get("href", "").startswith("#") else []
        self.targets += [given[name] for name in ("src", "href", "action", "data") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def count(self, tag):
        return sum(each == tag for each, _ in self.tags)


def page_of(store):
    text = page(facts(store, now=NOW))
    text.encode()  # no lone surrogates
    return text


@pytest.fixture
def served(tmp_path):
    with served_home(tmp_path / "home") as store:
        yield page_of(store)


def test_says_what_is_guaranteed_and_has_every_section(served):
    read = Reader(served)
    assert [given["id"] for tag, given in read.tags if tag == "section"] == SECTIONS
    assert (
        "Of the calls that version 2 answers itself, at least 95 % get the answer that the teacher would "
        "have given; this fails with a probability of at most 3 %."
    ) in read.text
    assert "Certified on 400 rows: the gate let 360 of them through (90 %), and 9 of these were" in read.text
    assert "drawn like those that certified" in read.text
    for part in ("270", "$0.52", "2 min 15 s", "where is my card", "user:ada", "looks good", "no threshold"):
        assert part in read.text


def test_charts_are_named_and_described(served):
    read = Reader(served)
    charts = [given for tag, given in read.tags if tag == "svg" and given.get("class") == "chart"]
    assert len(charts) == 6
    assert all(given["role"] == "img" and len(given["aria-labelledby"].split()) == 2 for given in charts)
    assert read.count("desc") == 6


def test_asks_no_network_for_anything(served):
    read = Reader(served)
    assert all(target.startswith("#") or target == "data:," for target in read.targets)
    assert "url(" not in served
    assert "@import" not in served
    assert not re.search(r"https?:", served)
    assert re.search(r"default-src &#x27;none&#x27;|default-src 'none'", served)
    assert not re.search(r"\sstyle=|\son\w+=", served)  # the policy lets neither through


def test_hostile_texts_stay_texts(tmp_path):
    with served_home(tmp_path / HOSTILE.split("W")[0].replace("/", "").replace("\x00", ""), HOSTILE,
                     reason=HOSTILE) as store:  # fmt: skip
        text = page_of(store)
    read = Reader(text)
    assert read.count("script") == 1
    assert "<script>document.title='x'" in read.text
    for sign in ("\u202e", "\x1b", "\x00"):
        assert sign not in text
    assert "[U+202E]evil[U+202C]" in read.text
    assert "W" * 700 not in text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a\ud800b", "a[U+D800]b"),
        ("a\u2028b\u200eb\ufeff", "a[U+2028]b[U+200E]b[U+FEFF]"),
        ("line\r\nnext\ttab", "line\nnext\ttab"),
        ("נהדר \U0001f468\u200d\U0001f469", "נהדר \U0001f468\u200d\U0001f469"),
        ("\U000e0041", "[U+E0041]"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(given, shown):
    assert visible(given) == shown


def test_of_an_empty_home(tmp_path):
    with open_home(tmp_path / "home") as store:
        read = Reader(page_of(store))
        assert "Nothing has been learned yet, so the teacher answers every call." in read.text
        add_traces(store, 12)
        assert "12 answers of the teacher are stored." in Reader(page_of(store)).text
    assert [given["id"] for tag, given in read.tags if tag == "section"] == SECTIONS


def test_of_a_home_whose_versions_were_refused(tmp_path):
    with open_home(tmp_path / "home") as store:
        add_version(store, covers=False)
        text = Reader(page_of(store)).text
    assert "Nothing is guaranteed yet, so the teacher answers every call." in text
    assert "This holds as long as" not in text
    assert "No threshold reaches 0.95; about 350 more rows would do." in text


@pytest.mark.parametrize("classes", [0, 1, 1000])
def test_of_few_and_many_classes(tmp_path, classes):
    with served_home(tmp_path / "home", classes=classes) as store:
        text = page_of(store)
    assert len(text.encode()) < 400_000
    assert Reader(text).text.count("class_") == classes
    assert f"{classes:,} class{'' if classes == 1 else 'es'} of the certifying rows" in text or not classes


def test_of_groups_with_thresholds_of_their_own(tmp_path):
    one = {"threshold": 0.7, "delta": 0.01, "rows": 300, "accepted": 280, "errors": 3, "risk": 0.01,
           "upper_bound": 0.03, "rows_needed": 0, "reason": "x"}  # fmt: skip
    other = {**one, "threshold": None, "rows": 20, "accepted": 0, "upper_bound": 1.0, "rows_needed": 80}
    given = certificate(threshold=None, thresholds={"refund": 0.7, HOSTILE: None}, curve=[],
                        groups={HOSTILE: other, "refund": one})  # fmt: skip
    with open_home(tmp_path / "home") as store:
        add_version(store, given=given)
        read = Reader(page_of(store))
    assert "itself, within the answers of each group, at least 95 % get the answer" in read.text
    assert "1 of 2 shown are guaranteed" in read.text
    assert "refund" in read.text
    assert "97 %" in read.text
    assert read.count("script") == 1


def test_of_errors_with_costs(tmp_path):
    with open_home(tmp_path / "home") as store:
        add_version(store, given=certificate(test="betting"))
        text = Reader(page_of(store)).text
    assert "itself, the mean cost of a different answer is at most 0.05; this fails" in text


def test_without_curve_boundary_or_prices(tmp_path):
    with served_home(tmp_path / "home") as store:
        found = facts(store)
    for usage in ({**found["usage"], "usd_per_call": None, "usd_saved": None},):
        changed = {**found, "boundary": [], "usage": usage, "guarantee": {**found["guarantee"], "curve": []}}
        text = Reader(page(changed)).text
    assert "no answer says what it cost" in text
    assert "There are no such pairs." in text


def test_a_page_is_written_whole(tmp_path, served):
    with open_home(tmp_path / "other") as store:
        found = facts(store)
    path = tmp_path / "report.html"
    path.write_text("before")
    with pytest.raises(KeyError):
        write_page(path, {})
    assert path.read_text() == "before"
    write_page(path, found)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["home", "other", "report.html"]


# Colours


def channel(value):
    value /= 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def luminance(colour):
    red, green, blue = (channel(int(colour[at : at + 2], 16)) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_have_the_contrast_that_wcag_aa_asks_for():
    sheet = files("dspex.distill.report").joinpath("page.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in
                   re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)[:2])  # fmt: skip
    assert set(light) == set(dark)
    for colours in (light, dark):
        for ground in ("ground", "raised"):
            for text in ("ink", "quiet", "native", "teacher", "watch", "bad", "good"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for sign in ("native", "teacher", "watch", "edge", "bad"):  # lines, bars, borders of fields
            assert contrast(colours[sign], colours["ground"]) >= 3, sign
        assert contrast(colours["ground"], colours["native"]) >= 4.5  # the stage that is marked
        assert contrast(colours["native"], colours["native-soft"]) >= 3
        assert contrast(colours["watch"], colours["watch-soft"]) >= 3
